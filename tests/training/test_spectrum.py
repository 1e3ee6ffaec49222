"""Spectral radius and Lipschitz constant are those of the dense Jacobian, whatever its spectrum."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from cells import CELLS, images, make_deq
from dense import jacobian
from robustdeq.base.errors import InputError
from robustdeq.deq.solve import Solution
from robustdeq.models import DEQ
from robustdeq.solvers import Picard
from robustdeq.training.spectrum import lipschitz_constant, spectral_radius

pytestmark = pytest.mark.usefixtures("float64")
PAIR = 0.9


class LinearCell(nn.Module):
    """A z + u."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def forward(self, z: Tensor, u: Tensor) -> Tensor:
        return z @ self.matrix.T + u


class ScaledRotation(LinearCell):
    """u_0 Q z + u with Q orthogonal: all eigenvalues, and all singular values, of a sample's J have modulus |u_0|."""

    def forward(self, z: Tensor, u: Tensor) -> Tensor:
        return u[:, :1] * (z @ self.matrix.T) + u


def solve(cell: nn.Module, u: Tensor) -> Solution:
    return DEQ(nn.Identity(), cell, nn.Linear(u.shape[1], 2), Picard(max_steps=3, tol=0)).solution(u)


def radius(solution: Solution) -> Tensor:
    state = solution.trajectory.solution.view(solution.trajectory.shape)
    return torch.linalg.eigvals(jacobian(solution.cell, state)).abs().amax(dim=1)


def with_pair(angle: float) -> Tensor:
    """A matrix, far from normal, whose dominant eigenvalues are 0.9 e^{± i angle}; the others are at most 0.6."""
    generator = torch.Generator().manual_seed(5)
    blocks = torch.diag(torch.linspace(-0.6, 0.6, 8))
    turn = torch.tensor(angle)
    blocks[:2, :2] = PAIR * torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()]).view(2, 2)
    basis = torch.randn(8, 8, generator=generator)
    return basis @ blocks @ torch.linalg.inv(basis)


@pytest.mark.parametrize("cell", CELLS)
def test_it_is_that_of_the_dense_jacobian(cell: str) -> None:
    solution = make_deq(cell).solution(images())
    assert_close(spectral_radius(solution, steps=400), radius(solution), rtol=2e-3, atol=0)


@settings(max_examples=20, deadline=None)
@given(angle=st.floats(0.1, 3.0), seed=st.integers(0, 1000))
def test_complex_pair_is_found_where_the_vector_never_settles(angle: float, seed: int) -> None:
    solution = solve(LinearCell(with_pair(angle)), torch.ones(1, 8))
    found = spectral_radius(solution, 200, torch.Generator().manual_seed(seed))
    assert abs(found.item() / PAIR - 1) < 0.01


def test_its_error_falls_with_the_square_of_the_steps() -> None:
    pairs = [solve(LinearCell(with_pair(angle)), torch.ones(8, 8)) for angle in torch.linspace(0.1, 3, 6).tolist()]
    few, many = (
        torch.stack([spectral_radius(pair, steps) / PAIR - 1 for pair in pairs]).abs().mean() for steps in (20, 320)
    )
    assert few < 0.04
    assert many < few / 40


@pytest.mark.parametrize("steps", [1, 2, 7, 20])
def test_each_sample_has_its_own_and_a_rotation_is_exact_after_any_number_of_steps(steps: int) -> None:
    scales = torch.tensor([0.0, 1e-9, -0.3, 1.0, 2.5])
    u = torch.cat([scales[:, None], torch.rand(5, 5)], dim=1)
    assert_close(spectral_radius(solve(ScaledRotation(torch.linalg.qr(torch.randn(6, 6)).Q), u), steps), scales.abs())


def test_growth_that_does_not_last_is_not_counted() -> None:
    matrix = torch.tensor([[0.5, 1e4], [0.0, 0.0]])
    assert_close(spectral_radius(solve(LinearCell(matrix), torch.rand(4, 2)), steps=4), torch.full((4,), 0.5))


@pytest.mark.parametrize("index", [1, 2, 6])
def test_nilpotent_jacobian_has_none(index: int) -> None:
    matrix = torch.diag(torch.full((5,), 3.0), -1)
    matrix[index:] = 0
    assert_close(spectral_radius(solve(LinearCell(matrix), torch.rand(4, 6))), torch.zeros(4), rtol=0, atol=0)


def test_broken_sample_is_not_a_number_and_its_neighbours_are_what_they_are() -> None:
    cell = ScaledRotation(torch.linalg.qr(torch.randn(6, 6)).Q)
    u = torch.full((3, 6), 0.5)
    u[1, 0] = torch.nan
    assert_close(spectral_radius(solve(cell, u)), torch.tensor([0.5, torch.nan, 0.5]), equal_nan=True)


def test_no_gradient_is_needed_or_kept() -> None:
    deq, x = make_deq(), images()
    solution, generator = deq.solution(x), torch.Generator()
    kept = spectral_radius(solution, 5, generator.manual_seed(1))
    assert not kept.requires_grad
    deq.head(solution.u).sum().backward()
    with torch.no_grad():
        assert_close(spectral_radius(deq.solution(x), 5, generator.manual_seed(1)), kept, rtol=0, atol=0)


def test_no_steps_are_refused() -> None:
    with pytest.raises(InputError, match="steps is 0; the power method makes at least 1 step"):
        spectral_radius(make_deq().solution(images()), steps=0)


@pytest.mark.parametrize("cell", CELLS)
def test_lipschitz_constant_is_the_norm_of_the_dense_jacobian(cell: str) -> None:
    solution = make_deq(cell).solution(images())
    state = solution.trajectory.solution.view(solution.trajectory.shape)
    expected = torch.linalg.matrix_norm(jacobian(solution.cell, state), ord=2)
    assert_close(lipschitz_constant(solution, steps=400), expected, rtol=1e-3, atol=0)


def test_lipschitz_constant_bounds_the_radius_and_is_approached_from_below() -> None:
    solution = solve(LinearCell(with_pair(0.4)), torch.ones(4, 8))
    few, many = (lipschitz_constant(solution, steps, torch.Generator().manual_seed(1)) for steps in (1, 50))
    norm = torch.linalg.matrix_norm(with_pair(0.4), ord=2)
    assert (few < many).all()
    assert (many <= norm * (1 + 1e-9)).all()
    assert (many > 1.4 * PAIR).all()


def test_lipschitz_constant_is_per_sample_needs_no_gradient_and_keeps_none() -> None:
    cell = ScaledRotation(torch.linalg.qr(torch.randn(6, 6)).Q)
    scales = torch.tensor([0.0, -0.3, torch.nan, 2.5])
    u = torch.cat([scales[:, None], torch.rand(4, 5)], dim=1)
    with torch.no_grad():
        found = lipschitz_constant(solve(cell, u), steps=3)
    assert not found.requires_grad
    assert found[0] == 0
    assert_close(found, scales.abs(), equal_nan=True)
    with pytest.raises(InputError, match="steps is 0; the power method makes at least 1 step"):
        lipschitz_constant(make_deq().solution(images()), steps=0)
