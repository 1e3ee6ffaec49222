"""Each check passes where the attacks are fit, fails where they are not, and says so with the right numbers."""

from dataclasses import asdict, replace
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
from robustdeq.attacks import PGD, Cascade, Square
from robustdeq.deq.defenses import EarlyState, FinalState
from robustdeq.evaluation import Check, CheckVerdict, Estimators, GridResult, Network, Paper, Strict, measure
from robustdeq.evaluation.diagnostics import Evidence, checks, compared, significant
from robustdeq.models import DEQ, MDEQ
from robustdeq.solvers import Picard
from tempers import DIM, tempered

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
    return [i for i, check in enumerate(checks(evidence)) if check.verdict is CheckVerdict.FAILED]


def test_attacks_that_are_fit_pass_every_check() -> None:
    assert failed(HEALTHY) == []
    assert len(checks(HEALTHY)) == 7


@pytest.mark.parametrize(
    ("change", "check", "sentence", "numbers"),
    [
        ({"moved": first(7, of=10)}, ZERO, "Up to 30.0% of 10 images have a zero gradient", [0.3]),
        (
            {"one_step": first(4, of=10)},
            ONE_STEP,
            "One step leaves 40.0% of 10 images and many steps 100.0%, on ensemble (p = 0.016): many steps lose their",
            [0.4, 1.0, 0.5**6],
        ),
        (
            {"restarted": first(25)},
            MORE,
            "One run leaves 50.0% of 40 images and more steps and restarts 62.5%, on ensemble (p = 0.031): the",
            [0.5, 0.625, 0.5**5],
        ),
        ({"unbounded": first(1, of=10)}, UNBOUNDED, "misses up to 10.0% of 10 images, on ensemble", [0.1]),
        ({"after_queries": first(13)}, BLACK_BOX, "left standing (1 of 14 on ensemble)", [14 / 40, 13 / 40]),
        ({"errors": 2}, NOT_FINITE, "Up to 2 images have logits that are not finite, on ensemble", [2.0]),
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


def test_where_no_step_could_move_an_image_nothing_is_said_of_its_gradient() -> None:
    still = replace(HEALTHY, moved=each(first(0, of=10)))
    assert failed(still) == [ZERO]
    check = checks(replace(still, eps=0.0))[ZERO]
    assert check.verdict is CheckVerdict.TOO_FEW
    assert check.sentence == "With ε = 0 no step moves an image, whatever its gradient."


def test_ready_made_attack_that_overrates_the_final_state_is_told() -> None:
    evidence = replace(HEALTHY, ready_made={**HEALTHY.ready_made, "final": first(30)})
    assert failed(evidence) == [MISALIGNED]
    verdict = checks(evidence)[MISALIGNED]
    assert verdict.sentence.startswith("Through the solver leaves 50.0% of 40 images and the ready-made attack 75.0%")
    assert verdict.numbers == {"final": {"through the solver": 0.5, "the ready-made attack": 0.75, "p": 0.5**10}}
    assert failed(replace(HEALTHY, ready_made={**HEALTHY.ready_made, "ensemble": first(40)})) == []


@pytest.mark.parametrize(("field", "chance", "beyond"), [("restarted", 24, 25), ("ready_made", 24, 25)])
def test_differences_within_chance_fail_nothing(field: str, chance: int, beyond: int) -> None:
    """Four images that only one attack breaks: p = 1/16; five: p = 1/32."""
    assert failed(replace(HEALTHY, **{field: each(first(chance))})) == []
    assert failed(replace(HEALTHY, **{field: each(first(beyond))})) != []


@pytest.mark.parametrize("left", range(7))
def test_what_could_not_have_failed_is_not_passed(left: int) -> None:
    """With so few images left by the stronger attack, no outcome of the weaker one is beyond chance: p ≥ 2⁻ᵏ."""
    evidence = replace(HEALTHY, single=each(first(left, of=10)), ready_made=each(first(left)))
    found = {check.name: check for check in checks(evidence)}
    few = 0.5**left >= 0.05
    for name in ("one step beats many", "forward and backward pass misaligned"):
        assert (found[name].verdict is CheckVerdict.TOO_FEW) == few
        assert ("of so few images" in found[name].sentence) == few
        assert found[name].passed != few
    nobody = replace(HEALTHY, before_queries=each(first(0)), after_queries=each(first(0)))
    assert checks(nobody)[BLACK_BOX].verdict is CheckVerdict.TOO_FEW


def test_a_difference_within_chance_is_said_to_be_one() -> None:
    check = checks(replace(HEALTHY, one_step=each(first(8, of=10))))[ONE_STEP]
    assert check.passed
    assert check.sentence == (
        "One step leaves 80.0% of 10 images and many steps 100.0%, on final (p = 0.25): no more than chance allows."
    )


def test_checks_without_evidence_are_not_made() -> None:
    assert checks(Evidence()) == ()
    made = checks(replace(HEALTHY, restarted={}, after_queries={}))
    assert [check.name for check in made] == [
        check.name for i, check in enumerate(checks(HEALTHY)) if i not in (MORE, BLACK_BOX)
    ]


@pytest.mark.parametrize("passed", [True, False])
def test_what_earlier_versions_wrote_is_read(passed: bool) -> None:
    check = Check.from_plain({"name": "a", "passed": passed, "sentence": "b", "numbers": {}})
    assert check.passed is passed
    assert Check.from_plain(asdict(check)) == check


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


def measured(model: MDEQ, head: nn.Module, eps: float = 0.2) -> GridResult:
    deq = DEQ(model.injection, model.cell, head, model.solver, model.tail, model.gradient).eval()
    x, y = rd.data.load("digits").require("test").head(12).tensors()
    attack = PGD(eps=eps, step_size=0.1, steps=2, random_start=False)
    estimators = Estimators(steps=(1,), dampings=(1.0,), states=1)
    strict = Strict(attack, estimators, steps=2, restarts=1, apgd_steps=2, targets=1, queries=40, probe_images=12)
    return measure(deq, x, y, strict, early=2, batch_size=12)


def test_a_ball_of_no_radius_reproaches_no_gradient(trained: MDEQ) -> None:
    found = verdicts(measured(trained, trained.head, eps=0.0))
    assert found["zero gradients"].verdict is CheckVerdict.TOO_FEW


def verdicts(result: GridResult) -> dict[str, Check]:
    return {check.name: check for check in result.checks}


def test_defense_that_hides_its_gradient_is_caught_and_climbed_straight_through(trained: MDEQ) -> None:
    results = [measured(trained, head) for head in (trained.head, Rounded(trained.head))]
    honest, hidden = map(verdicts, results)
    caught = {"zero gradients", "unbounded attack"}
    assert not any(honest[name].verdict is CheckVerdict.FAILED for name in caught)
    assert {name for name, check in hidden.items() if check.verdict is CheckVerdict.FAILED} >= caught
    name = "operations without a derivative"
    assert honest[name].sentence == "On the one image that was watched, every operation has a derivative."
    assert hidden[name].sentence.startswith("No useful derivative: round (test_diagnostics.py:")
    found = dict(zip(results[1].ids, results[1].per_sample[0].sum(axis=1), strict=True))
    assert found["straight-through"] < found["through-final"]
    for row, numbers in hidden["zero gradients"].numbers.items():
        assert numbers["share with zero gradient"] == 1, row


def test_network_that_hides_its_gradient_is_climbed_straight_through() -> None:
    network = Rounded(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    x, y = rd.data.load("digits").require("test").head(2).tensors()
    result = measure(network, x, y, Network(PGD(0.2, 0.1, steps=2), Cascade((Square(0.2, queries=1),))))
    check = verdicts(result)["operations without a derivative"]
    assert "straight-through" in result.ids
    assert "straight through it leaves" in check.sentence.lower()


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


def test_images_whose_solve_diverges_are_errors_and_do_not_stand() -> None:
    """Even where the state at which they are left would be classified as the label says."""
    x = torch.zeros(4, 4 + DIM)
    x[:, 0], x[:, 2], x[:, 4:] = torch.tensor([0.5, 3.0, -0.5, -3.0]), 100, 0.3
    deq = tempered(Picard(max_steps=8, tol=1e-4, divergence=100)).eval()
    solve = deq.solve(x)
    assert solve.diverged.tolist() == [False, True, False, True]
    with torch.no_grad():
        y = deq.head(solve.final).argmax(dim=1)
    attack, few = PGD(1e-3, 1e-3, steps=1, bounds=(-9, 100)), Estimators(steps=(1,), dampings=(1.0,), states=1)
    result = measure(deq, x, y, Paper(attack, few), defenses={"final": FinalState(), "first": EarlyState(1)})
    assert result.clean[0].tolist() == result.standing[0].tolist() == [True, False, True, False]
    assert result.errors[0] == 2
    assert result.clean[1].any() and result.errors[1] == 0
