"""The Jacobian penalty is ‖J‖_F² / D, drawn on some of the steps; the correction is the loss at earlier states."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from cells import images, make_deq
from dense import parameter_differences
from robustdeq.base.errors import InputError
from robustdeq.models import DEQ
from robustdeq.solvers import Broyden, Picard
from robustdeq.training.regularizers import FixedPointCorrection, JacobianRegularization, jacobian_penalty

pytestmark = pytest.mark.usefixtures("float64")


def dense_penalty(deq: DEQ, x: Tensor) -> Tensor:
    """The mean over the batch of ‖J‖_F² / D, from the whole Jacobian of each sample at z*."""
    norms = []
    for i in range(len(x)):
        solution = deq.solution(x[i : i + 1])
        state = solution.trajectory.solution.view(solution.trajectory.shape)
        jacobian = torch.func.jacrev(solution.cell)(state).reshape(state.numel(), -1)
        norms.append(jacobian.square().sum() / state.numel())
    return torch.stack(norms).mean()


@pytest.mark.parametrize("cell", ["contractive", "expansive", "convolution"])
def test_penalty_is_the_mean_square_of_the_jacobian(cell: str) -> None:
    deq, x = make_deq(cell), images()
    expected = dense_penalty(deq, x).detach()
    solution, generator = deq.solution(x), torch.Generator().manual_seed(0)
    draws = torch.stack([jacobian_penalty(solution, 1, generator).detach() for _ in range(800)])
    error = draws.std() / len(draws) ** 0.5
    assert error < expected / 10
    assert abs(draws.mean() - expected) < 4 * error


class Rotation(nn.Module):
    """z ↦ s Q z + u with Q orthogonal, so that ‖Jᵀv‖² = s² ‖v‖² for every v."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))
        self.register_buffer("rotation", torch.linalg.qr(torch.randn(6, 6)).Q)

    def forward(self, z: Tensor, u: Tensor) -> Tensor:
        return self.scale * z @ self.rotation + u


@pytest.mark.parametrize("probes", [1, 3])
def test_penalty_and_its_derivative_are_exact_for_a_rotation(probes: int) -> None:
    cell, x = Rotation(0.5), torch.rand(4, 6)
    solution = DEQ(nn.Identity(), cell, nn.Linear(6, 2)).solution(x)
    penalty = jacobian_penalty(solution, probes, torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    square = torch.stack([torch.randn(4, 6, generator=generator) for _ in range(probes)]).square().mean()
    assert_close(penalty, cell.scale**2 * square)
    (derivative,) = torch.autograd.grad(penalty, cell.scale)
    assert_close(derivative, 2 * cell.scale.detach() * square)


def test_penalty_reaches_the_weights_of_the_cell() -> None:
    deq, x = make_deq("expansive"), images()
    weight = deq.get_parameter("cell.weight")
    jacobian_penalty(deq.solution(x), 2).backward()
    assert weight.grad is not None
    assert weight.grad.abs().min() > 0


def draws(n: int = 2000, progress: float = 0.1, **settings: Any) -> list[int | None]:
    generator = torch.Generator().manual_seed(0)
    regularization = JacobianRegularization(**{"weight": 1.0} | settings)
    return [regularization.draw(progress, generator) for _ in range(n)]


@pytest.mark.parametrize("frequency", [0.0, 0.02, 0.4, 1.0])
def test_penalty_is_drawn_on_that_share_of_the_steps(frequency: float) -> None:
    share = sum(draw is not None for draw in draws(frequency=frequency)) / 2000
    assert abs(share - frequency) <= 4 * (frequency * (1 - frequency) / 2000) ** 0.5


def test_solve_is_longer_by_any_number_in_the_range() -> None:
    assert set(draws(frequency=1.0, shorter=2, longer=1)) == {-2, -1, 0, 1}
    assert set(draws(frequency=1.0, shorter=0, longer=0)) == {0}


@pytest.mark.parametrize(("progress", "drawn"), [(0.0, True), (0.39, True), (0.4, False), (1.0, False)])
def test_penalty_ends_at_its_share_of_the_training(progress: float, drawn: bool) -> None:
    assert all((draw is not None) == drawn for draw in draws(50, progress, frequency=1.0, until=0.4))


def test_weight_of_zero_draws_nothing() -> None:
    assert set(draws(weight=0.0, frequency=1.0)) == {None}


@pytest.mark.parametrize(
    "settings",
    [
        {"weight": -1.0},
        {"weight": float("nan")},
        {"frequency": 1.1},
        {"frequency": -0.1},
        {"until": 2.0},
        {"probes": 0},
        {"shorter": -1},
        {"longer": -1},
    ],
    ids=str,
)
def test_setting_that_cannot_be_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        JacobianRegularization(**settings)


Y = torch.tensor([0, 2, 1])


def loss_after_damped_steps(deq: DEQ, x: Tensor, state: Tensor, steps: int, damping: float) -> Tensor:
    """The cross-entropy of each sample some damped steps behind a constant state, written out."""
    u = deq.injection(x)
    z = state.detach().view(u.shape)
    for _ in range(steps):
        z = (1 - damping) * z + damping * deq.cell(z, u)
    return cross_entropy(deq.head(z), Y[: len(x)], reduction="none")


@pytest.mark.parametrize("cell", ["expansive", "convolution", "own-start"])
@pytest.mark.parametrize(
    ("states", "chosen"), [(1, [5]), (2, [3, 6]), (3, [2, 5, 7]), (9, range(1, 10)), (12, range(1, 10))]
)
def test_correction_is_the_decaying_sum_of_the_losses_and_so_is_its_gradient(
    cell: str, states: int, chosen: list[int]
) -> None:
    deq, x = make_deq(cell, Broyden(max_steps=10, tol=0)), images()
    solution = deq.solution(x)
    expected = torch.zeros(())
    for age, n in enumerate(reversed(chosen)):
        loss = loss_after_damped_steps(deq, x, solution.state(n), steps=2, damping=0.6)
        expected = expected + 0.4 * 0.7**age * loss.mean()
    penalty = FixedPointCorrection(0.4, states, decay=0.7, steps=2, damping=0.6).penalty(deq, solution, Y)
    assert_close(penalty, expected)
    weights = list(deq.parameters())
    gradients = torch.autograd.grad(penalty, weights)
    assert_close(gradients, torch.autograd.grad(expected, weights))
    assert all(gradient.abs().max() > 0 for gradient in gradients)


def test_gradient_of_the_correction_is_its_derivative_where_the_states_are_held() -> None:
    deq, x = make_deq("expansive"), images()
    correction, held = FixedPointCorrection(0.5, states=2, steps=2, damping=0.5), deq.solution(x).trajectory

    def penalty() -> Tensor:
        solution = deq.solution(x)
        solution.trajectory = held
        return correction.penalty(deq, solution, Y)

    for name in ("cell.weight", "injection.1.weight", "head.1.weight"):
        weight = deq.get_parameter(name)
        (gradient,) = torch.autograd.grad(penalty(), weight)
        assert_close(gradient[1, 2], parameter_differences(penalty, weight[1, 2]), rtol=1e-7, atol=1e-10)


def test_sample_that_has_converged_or_diverged_before_a_state_is_left_out_there() -> None:
    deq, x = make_deq("contractive", Broyden(max_steps=30, tol=1e-4)), images()
    solution = deq.solution(x)
    steps = solution.trajectory.steps
    n = int(steps.sort().values[1])
    assert steps.unique().numel() == 3
    deq.solver = Broyden(max_steps=2 * n, tol=1e-4)
    penalty = FixedPointCorrection(1.0, states=1).penalty(deq, deq.solution(x), Y)
    (slowest,) = (steps > n).nonzero()
    loss = loss_after_damped_steps(deq, x, solution.state(n), 1, 1.0)
    assert_close(penalty, loss[slowest].sum() / 3)


class Exponential(nn.Module):
    """exp(w z) + u."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, z: Tensor, u: Tensor) -> Tensor:
        return (self.weight * z).exp() + u


def test_sample_that_blows_up_leaves_the_correction_of_the_others_finite() -> None:
    deq = DEQ(nn.Identity(), Exponential(), nn.Linear(3, 3), Picard(max_steps=6, tol=0))
    tame, wild = torch.full((1, 3), -3.0), torch.full((1, 3), 5.0)
    solution = deq.solution(torch.cat([tame, wild]))
    assert solution.trajectory.diverged.tolist() == [False, True]
    assert solution.cell(solution.state(3))[1].isinf().all()
    correction, weights = FixedPointCorrection(1.0, states=1), list(deq.parameters())
    penalty, alone = correction.penalty(deq, solution, Y[:2]), correction.penalty(deq, deq.solution(tame), Y[:1]) / 2
    assert_close(penalty, alone)
    assert_close(torch.autograd.grad(penalty, weights), torch.autograd.grad(alone, weights))


@pytest.mark.parametrize(("weight", "max_steps"), [(0.0, 6), (1.0, 1)])
def test_no_weight_or_no_intermediate_state_asks_nothing_of_the_model(weight: float, max_steps: int) -> None:
    deq, x = make_deq(solver=Broyden(max_steps=max_steps, tol=0)), images()
    solution = deq.solution(x)
    deq.head.register_forward_hook(lambda *_: pytest.fail("the head was asked"))
    penalty = FixedPointCorrection(weight, states=2).penalty(deq, solution, Y)
    assert penalty.item() == 0
    assert not penalty.requires_grad


def test_running_statistics_of_the_head_are_those_of_the_final_state_alone() -> None:
    deq, x = make_deq(), images()
    deq.head.insert(2, nn.BatchNorm1d(3))
    solution = deq.solution(x)
    before = {name: buffer.clone() for name, buffer in deq.named_buffers()}
    FixedPointCorrection(1.0).penalty(deq, solution, Y).backward()
    assert_close(dict(deq.named_buffers()), before, rtol=0, atol=0)
    assert deq.get_parameter("head.2.weight").grad is not None
    assert deq.get_parameter("head.1.weight").grad is not None


@pytest.mark.parametrize(
    "settings",
    [
        {"weight": -1.0},
        {"weight": float("nan")},
        {"states": 0},
        {"decay": 0.0},
        {"decay": 1.1},
        {"steps": 0},
        {"damping": 0.0},
    ],
    ids=str,
)
def test_correction_that_cannot_be_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        FixedPointCorrection(**settings)
