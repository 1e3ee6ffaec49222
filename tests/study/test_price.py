"""The price of the worst case: the same outcomes for fewer evaluations, measured once for each model."""

from pathlib import Path

import numpy as np
import pytest
import torch

import robustdeq as rd
from robustdeq.evaluation import Estimators, Strict
from robustdeq.study import EXPERIMENTS, Study, scale_named
from robustdeq.study.beyond import price
from robustdeq.study.study import Trained

PRICE = EXPERIMENTS["price"]
QUICK = Strict(steps=2, restarts=2, apgd_steps=3, targets=2, queries=4, probe_images=2)


def test_the_worst_case_costs_less_and_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    deq = rd.models.conv("digits", in_channels=1).eval()
    monkeypatch.setattr(Study, "trained", lambda self, way, seed: Trained(deq, 4, None, way.name))
    splits = rd.data.load("digits")
    few = Estimators(steps=(1,), dampings=(1.0,), states=1)
    images = splits.require("test").head(6)
    study = Study(
        scale_named("conv-digits"), splits, images, tmp_path, strict=QUICK, estimators=few, seeds=1, ways=("aligned",)
    )
    costs, left = PRICE.measure(study)
    assert costs.rows == left.rows == ("(8) Solver-Aligned",)
    ((strict, cascade, ratio, differ),) = costs.values
    assert 0 < cascade < strict
    assert ratio == pytest.approx(cascade / strict)
    assert differ == 0
    assert left.values[0, 0] == left.values[0, 1]
    monkeypatch.setattr(price, "besieged", None)
    again, _ = PRICE.measure(study)
    np.testing.assert_array_equal(again.values, costs.values)


def test_outcomes_that_differ_are_counted() -> None:
    found = np.ones((1, 2, 4, 5))
    found[0, 1, 2, 3] = 0
    found[0, 0, -1], found[0, 1, -1] = 40, 10
    costs, left = price.panels(("m",), found)
    assert costs.values.tolist() == [[40, 10, 0.25, 1]]
    assert left.values.tolist() == [[100, 100]]
