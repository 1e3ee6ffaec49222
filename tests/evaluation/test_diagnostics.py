"""Each check passes where the attacks are fit, fails where they are not, and says so with the right numbers."""

from dataclasses import replace
from math import comb

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom
from torch import Tensor, nn
from typing_extensions import override

import robustdeq as rd
from robustdeq.attacks import PGD
from robustdeq.evaluation import Check, Estimators, GridResult, Strict, measure
from robustdeq.evaluation.diagnostics import Evidence, checks, compared, significant
from robustdeq.models import DEQ, MDEQ

ROWS = ("final", "ensemble")
ZERO, ONE_STEP, MORE, UNBOUNDED, BLACK_BOX, MISALIGNED, NOT_FINITE = range(7)


def first(n: int, of: int = 40) -> np.ndarray:
    """The first n of so many images stand."""
    return np.arange(of) < n


def each(stands: np.ndarray) -> dict[str, np.ndarray]:
    return dict.fromkeys(ROWS, stands)


HEALTHY = Evidence(
    single=each(first(20)),
    restarted=each(first(16)),
    one_step=each(first(10, of=10)),
    moved=each(first(10, of=10)),
    unbounded=each(first(0, of=10)),
    before_queries=each(first(14)),
    after_queries=each(first(14)),
    ready_made=each(first(23)),
    errors=dict.fromkeys(ROWS, 0),
)


def failed(evidence: Evidence) -> list[int]:
    return [i for i, check in enumerate(checks(evidence)) if not check.passed]


def test_attacks_that_are_fit_pass_every_check() -> None:
    assert failed(HEALTHY) == []
    assert len(checks(HEALTHY)) == 7


@pytest.mark.parametrize(
    ("change", "check", "sentence", "numbers"),
    [
        ({"moved": first(7, of=10)}, ZERO, "Up to 30.0% of the images have a zero gradient", [0.3]),
        ({"one_step": first(4, of=10)}, ONE_STEP, "better than PGD on ensemble: PGD loses", [0.4, 1.0, 0.5**6]),
        ({"restarted": first(25)}, MORE, "do worse on ensemble", [0.5, 0.625, 0.5**5]),
        ({"unbounded": first(1, of=10)}, UNBOUNDED, "misses up to 10.0% of the images, on ensemble", [0.1]),
        ({"after_queries": first(13)}, BLACK_BOX, "gradients left standing, on ensemble", [14 / 40, 13 / 40]),
        ({"errors": 2}, NOT_FINITE, "not finite on ensemble; these images count as errors", [2.0]),
    ],
)
def test_each_check_fails_on_the_defense_whose_attacks_are_not_fit(
    change: dict[str, object], check: int, sentence: str, numbers: list[float]
) -> None:
    ((name, found),) = change.items()
    evidence = replace(HEALTHY, **{name: {**getattr(HEALTHY, name), "ensemble": found}})
    assert failed(evidence) == [check]
    verdict = checks(evidence)[check]
    assert sentence in verdict.sentence
    assert list(verdict.numbers["ensemble"].values()) == pytest.approx(numbers)


def test_ready_made_attack_that_overrates_the_final_state_is_told() -> None:
    evidence = replace(HEALTHY, ready_made={**HEALTHY.ready_made, "final": first(30)})
    assert failed(evidence) == [MISALIGNED]
    verdict = checks(evidence)[MISALIGNED]
    assert "overrates the model by 25.0 points" in verdict.sentence
    assert verdict.numbers == {"final": {"through the solver": 0.5, "ready-made attack": 0.75, "p": 0.5**10}}
    assert failed(replace(HEALTHY, ready_made={**HEALTHY.ready_made, "ensemble": first(40)})) == []


@pytest.mark.parametrize(("field", "chance", "beyond"), [("restarted", 24, 25), ("ready_made", 24, 25)])
def test_differences_within_chance_fail_nothing(field: str, chance: int, beyond: int) -> None:
    """Four images that only one attack breaks: p = 1/16; five: p = 1/32."""
    assert failed(replace(HEALTHY, **{field: each(first(chance))})) == []
    assert failed(replace(HEALTHY, **{field: each(first(beyond))})) != []


def test_one_step_is_compared_on_the_probed_images_alone() -> None:
    late = ~first(20)
    assert failed(replace(HEALTHY, single=each(late), restarted=each(late), one_step=each(first(0, of=10)))) == []


@given(only_ours=st.integers(0, 30), only_theirs=st.integers(0, 30), both=st.integers(0, 5), neither=st.integers(0, 5))
def test_p_value_is_that_of_the_one_sided_sign_test(only_ours: int, only_theirs: int, both: int, neither: int) -> None:
    counts = [only_ours, only_theirs, both, neither or 1]
    ours = np.repeat([False, True, True, False], counts)
    theirs = np.repeat([True, False, True, False], counts)
    shuffled = np.random.default_rng(0).permutation(len(ours))
    numbers = compared("ours", ours[shuffled], "theirs", theirs[shuffled])
    n = only_ours + only_theirs
    tail = sum(comb(n, k) for k in range(only_ours, n + 1)) / 2**n
    assert numbers["p"] == pytest.approx(tail)
    assert numbers["p"] == pytest.approx(binom.sf(only_ours - 1, n, 0.5))
    assert significant(numbers) == (tail < 0.05)
    assert (numbers["ours"], numbers["theirs"]) == (ours.mean(), theirs.mean())


class Rounded(nn.Module):
    """A head whose logits are steps: its gradient is zero almost everywhere."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    @override
    def forward(self, z: Tensor) -> Tensor:
        return torch.round(4 * self.head(z))


class Broken(Rounded):
    """A head whose logits are nan wherever the first class is the likeliest."""

    @override
    def forward(self, z: Tensor) -> Tensor:
        logits = self.head(z)
        return torch.where((logits.argmax(dim=1) == 0)[:, None], torch.nan, logits)


def measured(model: MDEQ, head: nn.Module) -> GridResult:
    deq = DEQ(model.injection, model.cell, head, model.solver, model.tail, model.gradient).eval()
    x, y = rd.data.load("digits").require("test").head(12).tensors()
    attack = PGD(eps=0.2, step_size=0.1, steps=2, random_start=False)
    estimators = Estimators(steps=(1,), dampings=(1.0,))
    strict = Strict(attack, estimators, steps=2, restarts=1, apgd_steps=2, targets=1, queries=40, probe_images=12)
    return measure(deq, x, y, strict, early=2, batch_size=12)


def verdicts(result: GridResult) -> dict[str, Check]:
    return {check.name: check for check in result.checks}


def test_defense_that_hides_its_gradient_is_caught(trained: MDEQ) -> None:
    honest, hidden = (verdicts(measured(trained, head)) for head in (trained.head, Rounded(trained.head)))
    caught = {"zero gradients", "unbounded attack", "black box beats white box"}
    assert all(honest[name].passed for name in caught)
    assert {name for name, check in hidden.items() if not check.passed} >= caught
    for row, numbers in hidden["zero gradients"].numbers.items():
        assert numbers["share with zero gradient"] == 1, row


def test_logits_that_are_not_finite_are_counted_and_do_not_stand(trained: MDEQ) -> None:
    x, _ = rd.data.load("digits").require("test").head(12).tensors()
    with torch.no_grad():
        silent = (trained(x).argmax(dim=1) == 0).numpy()
    assert 0 < silent.sum() < 12
    result = measured(trained, Broken(trained.head))
    assert not result.clean[0, silent].any()
    assert not result.standing[0, silent].any()
    assert result.clean[0].any()
    assert silent.sum() <= result.errors[0] <= 12
    check = verdicts(result)["logits that are not finite"]
    assert not check.passed
    assert [numbers["images"] for numbers in check.numbers.values()] == list(result.errors)
