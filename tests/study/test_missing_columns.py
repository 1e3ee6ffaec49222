"""Experiments take their columns by name: where one could not be made, they say so and put none in its place."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import robustdeq as rd
from robustdeq.base.errors import InputError
from robustdeq.data import Splits
from robustdeq.evaluation import Estimators, GridResult
from robustdeq.study import Effort, Study, scale_named
from robustdeq.study.beyond.gradient_or_loss import attacked
from robustdeq.study.grids import COLUMNS, paper_part, under
from robustdeq.study.paper.table4 import network
from robustdeq.study.study import Trained

OUTCOMES = np.arange(6 * 2).reshape(1, 6, 2) % 5 > 1
LABELS = tuple(column.lower() for column in COLUMNS[1:])


def grid(order: list[int], **others: object) -> GridResult:
    """The paper's six columns, or some of them, in some order."""
    labels, papers = tuple(LABELS[j] for j in order), (False,) * len(order)
    return GridResult(("final",), labels, labels, papers, np.ones((1, 2), bool), OUTCOMES[:, order], **others)  # pyright: ignore


def test_columns_are_found_in_whatever_order_they_were_made() -> None:
    expected = np.concatenate([np.ones((1, 1, 2), bool), OUTCOMES], axis=1)
    for order in ([0, 1, 2, 3, 4, 5], [3, 5, 0, 2, 1, 4]):
        np.testing.assert_array_equal(paper_part(grid(order)), expected)
    by_id = replace(grid([2, 0]), ids=("adjoint-ensemble", "adjoint-final"))
    np.testing.assert_array_equal(under(by_id, ["adjoint-final"]), OUTCOMES[:, :1])


def test_a_column_that_was_not_made_is_told_with_the_reason() -> None:
    lost = grid([0, 1, 2, 3, 4], missing={LABELS[5]: "there is no state 9; choose another."})
    with pytest.raises(InputError) as refused:
        paper_part(lost)
    assert str(refused.value) == (
        f"'{LABELS[5]}' cannot be measured here ({LABELS[5]}: there is no state 9; choose another); "
        "take another model, or other data."
    )


def explicit() -> torch.nn.Module:
    return rd.models.ResNet(rd.models.ResNetConfig((1,), 4), 3, 1)


@pytest.mark.parametrize(
    ("measure", "model", "lost"),
    [
        (network, explicit, "AutoAttack"),
        (attacked, lambda: rd.models.mdeq("nano", in_channels=1, num_classes=3), "ready-made, targeted DLR"),
    ],
)
def test_three_classes_are_too_few_for_the_targeted_loss(
    measure: Callable[[Study, Trained, str], object], model: Callable[[], torch.nn.Module], lost: str, tmp_path: Path
) -> None:
    digits = rd.data.load("digits").require("test")
    three = replace(digits.subset(torch.where(digits.labels < 3)[0]).head(2), classes=("0", "1", "2"))
    few = {"estimators": Estimators(steps=(1,), dampings=(1.0,), states=1), "effort": Effort(1, 2, 1, 2, 2)}
    study = Study(scale_named("nano"), Splits(None, None, three), three, tmp_path, **few)  # pyright: ignore
    torch.manual_seed(0)
    trained = Trained(model().eval(), 3, None, "")
    with pytest.raises(InputError, match=rf"^'{lost}' cannot be measured here \(.* classes and the model has 3"):
        measure(study, trained, "three classes")
