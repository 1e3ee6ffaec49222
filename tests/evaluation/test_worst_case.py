"""The worst case is that of the strict protocol, image by image, from attacks on what still stands alone."""

import copy
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from torch import Tensor

import robustdeq as rd
from robustdeq.attacks import PGD
from robustdeq.base.progress import Report
from robustdeq.evaluation import Attempt, Estimators, GridResult, Strict, WorstCase, measure
from robustdeq.evaluation.job import adversaries_of
from robustdeq.evaluation.measure import chosen, plan
from robustdeq.evaluation.store import Store
from robustdeq.models import MDEQ

pytestmark = pytest.mark.xdist_group("worst-case")
ATTACK = PGD(eps=0.05, step_size=0.025, steps=2)
FEW = {"steps": 2, "restarts": 2, "apgd_steps": 3, "targets": 1, "queries": 6, "probe_images": 4}
WORST_CASE = WorstCase(ATTACK, Estimators(steps=(1,), dampings=(1.0,), states=1), **FEW)
STRICT = Strict(**{name: getattr(WORST_CASE, name) for name in ("attack", "estimators", *FEW)})


@pytest.fixture(scope="module")
def deq(trained: MDEQ) -> MDEQ:
    return copy.deepcopy(trained).double()


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    x, y = rd.data.load("digits").require("test").head(14).tensors()
    return x.double(), y


@pytest.fixture(scope="module")
def strict(deq: MDEQ, data: tuple[Tensor, Tensor]) -> GridResult:
    return measure(deq, *data, STRICT, early=2, batch_size=14)


@pytest.mark.parametrize("batch_size", [5, 14])
def test_worst_case_is_that_of_the_strict_protocol(
    deq: MDEQ, data: tuple[Tensor, Tensor], strict: GridResult, batch_size: int
) -> None:
    """Whatever shares a batch, and in whatever order the attacks come."""
    found = measure(deq, *data, WORST_CASE, early=2, batch_size=batch_size)
    assert 0 < strict.standing.sum() < strict.clean.sum()
    assert np.array_equal(found.standing, strict.standing)
    assert np.array_equal(found.clean, strict.clean)


def test_columns_are_cumulative_but_for_those_that_tell_what_others_would_have_said(
    deq: MDEQ, data: tuple[Tensor, Tensor], strict: GridResult
) -> None:
    result = measure(deq, *data, WORST_CASE, early=2, batch_size=8)
    assert result.ids[:4] == ("unrolled-final", "through-final", "through-early", "through-ensemble")
    assert result.ids[-1] == "square"
    assert result.cumulative == (False,) * 4 + (True,) * (len(result.ids) - 4)
    assert result.ready_made == (True,) + (False,) * (len(result.ids) - 1)
    assert all(result.beyond_paper)
    for before, after in pairwise(np.moveaxis(result.per_sample, 1, 0)[4:]):
        assert (after <= before).all()
    assert (result.standing <= result.per_sample[:, -1]).all()
    names = {check.name for check in result.checks}
    assert names == {check.name for check in strict.checks} - {"more steps do not help"}


def test_attempts_are_those_of_the_strict_protocol(deq: MDEQ, data: tuple[Tensor, Tensor]) -> None:
    def attempts(protocol: Strict) -> list[str]:
        job = plan(deq, *data, protocol, early=2)
        made = [attempt for column in job.columns if column.role.shown for attempt in column.attempts]
        return sorted(repr(attempt.description | {"survivors": None}) for attempt in made)

    assert attempts(WORST_CASE) == attempts(STRICT)


def test_every_pack_is_as_full_as_a_batch(
    deq: MDEQ, data: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each attempt only the last pack may hold less, and nothing that has fallen is attacked again."""
    packs: dict[str, list[int]] = {}

    def watched(attempt: Attempt, x: Tensor, y: Tensor, report: Report) -> Tensor:
        packs.setdefault(attempt.key, []).append(len(x))
        return adversaries_of(attempt, x, y, report)

    monkeypatch.setattr("robustdeq.evaluation.job.adversaries_of", watched)
    job = plan(deq, *data, replace(WORST_CASE, probe_images=1), early=2, batch_size=4)
    shares: list[float] = []
    with Store.create(None, job.manifest()) as store:
        job.run(store, report=lambda share, what: shares.append(share))
    assert all(size == 4 for sizes in packs.values() for size in sizes[:-1])
    shown = [attempt for column in job.columns if column.role.shown for attempt in column.attempts]
    totals = [sum(packs.get(attempt.key, [])) for attempt in shown if attempt.survivors]
    assert totals == sorted(totals, reverse=True)
    assert totals[-1] < len(data[0])
    assert shares == sorted(shares)
    assert shares[-1] <= 1


def test_it_is_what_a_deq_is_measured_by_where_nothing_else_is_asked(deq: MDEQ, data: tuple[Tensor, Tensor]) -> None:
    assert chosen(deq, None).name == chosen(deq, "worst-case").name == "worst-case"
