"""The Jacobian penalty is ‖J‖_F² / D, and is drawn on the steps it is asked for."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from cells import images, make_deq
from robustdeq.errors import InputError
from robustdeq.models import DEQ
from robustdeq.training import JacobianRegularization, jacobian_penalty

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
