"""What only a DEQ has: its solve can be attacked, and another solver can be put in its place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import robustdeq as rd
from cells import make_deq
from robustdeq.attacks import PGD
from robustdeq.base.errors import InputError
from robustdeq.defenses import AsIs, FinalState, OtherSolve
from robustdeq.evaluation import CheckVerdict, GridResult, measure
from robustdeq.evaluation.column import Row
from robustdeq.evaluation.probes import Company
from robustdeq.evaluation.protocols import protocol_named
from robustdeq.evaluation.solves import Slowness
from robustdeq.solvers import Anderson, Broyden, Picard

ATTACK = PGD(eps=0.2, step_size=0.05, steps=4, bounds=(-4, 4))


def deq_of(**settings: object) -> rd.DEQ:
    torch.manual_seed(0)
    return make_deq(**settings).double().eval()


def images(n: int = 8) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).clamp(-2, 2)
    return x, deq_of()(x).argmax(dim=1)


@pytest.mark.parametrize(
    ("other", "solver"),
    [
        (OtherSolve("Anderson", Anderson), Anderson(max_steps=4, tol=1e-6)),
        (OtherSolve("Picard", Picard), Picard(max_steps=4, tol=1e-6)),
        (OtherSolve("half", steps=0.5), Broyden(max_steps=2, tol=1e-6)),
        (OtherSolve("twice", steps=2), Broyden(max_steps=8, tol=1e-6)),
        (OtherSolve("few", steps=0.01), Broyden(max_steps=1, tol=1e-6)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_other_solve_is_that_of_the_same_weights_with_the_other_solver(
    other: OtherSolve, solver: rd.solvers.Solver
) -> None:
    deq, (x, _) = deq_of(solver=Broyden(max_steps=4, tol=1e-6)), images()
    expected = deq.with_settings(solver=solver)
    assert other.evaluations(deq) == expected.evaluations(None)
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    logits = other.logits(deq, leaves[0]), FinalState().logits(expected, leaves[1])
    assert_close(*logits)
    assert_close(
        *(torch.autograd.grad(made.square().sum(), leaf)[0] for made, leaf in zip(logits, leaves, strict=True))
    )
    assert deq.solver == Broyden(max_steps=4, tol=1e-6)


def test_another_start_moves_the_states_of_every_sample_alike_and_not_the_model() -> None:
    deq, (x, _) = deq_of(solver=Broyden(max_steps=3, tol=0)), images()
    before = deq(x)
    moved = OtherSolve("elsewhere", offset=0.5).model_of(deq)
    start = moved.bind(x)[2]
    assert_close(start, start[:1].expand_as(start))
    assert start.std() > 0.1
    assert not torch.allclose(moved(x), before)
    assert_close(deq(x), before)
    solved = replace(deq.solver, max_steps=60, tol=1e-12)
    far, near = (model.with_settings(solver=solved)(x) for model in (moved, deq))
    assert_close(far, near, atol=1e-8, rtol=1e-8)


def test_other_solve_of_no_steps_is_refused() -> None:
    with pytest.raises(InputError, match="steps is 0"):
        OtherSolve("none", steps=0)


def measured(protocol: str, **settings: object) -> GridResult:
    return measure(deq_of(**settings), *images(), protocol_named(protocol, attack=ATTACK), batch_size=4)


def test_every_solve_is_attacked_and_judged_under_every_other() -> None:
    result = measured("solvers", solver=Broyden(max_steps=3, tol=0))
    assert result.defenses == (
        "as deployed", "Broyden", "Anderson", "Picard", "half the steps", "twice the steps", "another start"
    )  # fmt: skip
    assert result.columns == ("ready-made", *(f"through {row}" for row in result.defenses))
    np.testing.assert_array_equal(result.per_sample[0], result.per_sample[1])


def test_slow_down_tells_how_the_solve_fares() -> None:
    result = measured("slow-down", solver=Broyden(max_steps=4, tol=1e-3))
    (check,) = (check for check in result.checks if check.name == Slowness.name)
    numbers = check.numbers["final"]
    assert numbers["mean residual, attacked"] > numbers["mean residual"] > 0
    assert numbers["mean steps, attacked"] >= numbers["mean steps"]
    assert f"from {numbers['mean steps']:.1f} to {numbers['mean steps, attacked']:.1f}" in check.sentence
    assert check.passed
    curves = result.profiles
    assert [*curves] == ["clean", "ready-made attack", "slow-down attack"]
    assert curves["slow-down attack"].residual[3] > curves["clean"].residual[3]


def test_images_that_diverge_under_attack_alone_fail_the_check() -> None:
    still = {name: np.zeros(4) for name in ("mean steps", "not converged", "diverged", "mean residual")}
    attacked = {f"{name}, attacked": values for name, values in still.items()}
    assert Slowness.check({"final": still | attacked}).passed
    attacked["diverged, attacked"] = np.array([0, 0, 1, 0])
    check = Slowness.check({"final": still | attacked})
    assert check.verdict is CheckVerdict.FAILED
    assert "diverged from 0% to 25%" in check.sentence


class BatchWide(nn.Module):
    """A torchdeq model that stops all samples at once, as soon as the worst of them has converged or time is up."""

    def __init__(self) -> None:
        super().__init__()
        torchdeq = pytest.importorskip("torchdeq")
        torch.manual_seed(0)
        self.inject, self.weight = nn.Linear(6, 5), nn.Parameter(torch.randn(5, 5) / 2)
        self.head = nn.Linear(5, 3)
        self.deq = torchdeq.get_deq(f_solver="fixed_point_iter", f_max_iter=60, f_tol=0.3, f_stop_mode="abs")

    def forward(self, x: Tensor) -> Tensor:
        u = self.inject(x)
        states, _ = self.deq(lambda z: torch.tanh(z @ self.weight + u), torch.zeros_like(u))
        return self.head(states[-1])


def test_one_hostile_image_changes_its_neighbours_in_a_batch_wide_solve_and_not_in_ours() -> None:
    module, (x, y) = BatchWide().double().eval(), images()
    deq = rd.models.from_torchdeq(module, x)
    attack = replace(ATTACK, bounds=(-40, 40))
    verdicts = {}
    for name, model, defense in (("as it was", module, AsIs()), ("ours", deq, FinalState())):
        found = Company(attack).look(Row(name, model, defense), x, y)
        verdicts[name] = Company.check({name: {key: values.numpy() for key, values in found.items()}}).verdict
    assert verdicts == {"as it was": CheckVerdict.FAILED, "ours": CheckVerdict.PASSED}
