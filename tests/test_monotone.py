"""The example of a monotone DEQ has one fixed point, reached at the rate of theory and differentiated exactly."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

import dense
from cells import linear_loss
from robustdeq.deq.model import DEQ
from robustdeq.gradients import Exact
from robustdeq.solvers import Broyden, Picard, Solver
from robustdeq.zoo.factory import imported

pytestmark = pytest.mark.usefixtures("float64")
EXAMPLE = Path(__file__).parents[1] / "examples" / "monotone.py"
WIDTH = 9
SOLVERS: list[Solver] = [Picard(2000, 1e-13), Broyden(100, 1e-13)]


def build(m: float, **settings: Any) -> DEQ:
    return imported(f"{EXAMPLE}:build")(width=WIDTH, m=m, **settings)


def images() -> Tensor:
    return torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(2))


def weight_of(cell: Any) -> Tensor:
    return (1 - cell.m) * torch.eye(WIDTH) - cell.a.T @ cell.a + cell.b - cell.b.T


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
@pytest.mark.parametrize("m", [0.2, 1.0, 3.0])
def test_fixed_point_is_that_of_the_monotone_network(m: float, solver: Solver) -> None:
    deq, x = build(m), images()
    deq.solver = solver
    with torch.no_grad():
        found, u = deq.solve(x), deq.injection(x)
        assert found.converged.all()
        z = found.solution
        assert_close(z, torch.relu(z @ weight_of(deq.cell).T + u), rtol=1e-10, atol=1e-10)
    assert (z > 0).any()
    assert (z == 0).any()


@settings(deadline=None)
@given(st.floats(0.01, 10), st.floats(0.01, 10), st.integers(0, 1000))
def test_every_step_contracts_at_the_rate_of_theory(m: float, scale: float, seed: int) -> None:
    torch.manual_seed(seed)
    cell = imported(f"{EXAMPLE}:Cell")(WIDTH, m)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.mul_(scale)
        apart = torch.eye(WIDTH) - weight_of(cell)
        assert torch.linalg.eigvalsh(apart + apart.T).min() >= 2 * m * (1 - 1e-9)
        rate = (1 - (m / torch.linalg.matrix_norm(apart, ord=2)) ** 2).clamp_min(0).sqrt()
        step = cell.bind(torch.randn(5, WIDTH)).function
        one, other = torch.randn(2, 5, WIDTH)
        for _ in range(4):
            before, one, other = (one - other).norm(dim=1), step(one), step(other)
            assert ((one - other).norm(dim=1) <= (rate + 1e-9) * before).all()


@pytest.mark.parametrize("m", [0.2, 1.0])
def test_exact_gradient_is_that_of_the_fixed_point(m: float) -> None:
    deq, x = build(m), images()[:, :, :1, :3]
    deq.injection = nn.Sequential(nn.Flatten(), nn.Linear(3, WIDTH))
    deq.solver = Picard(2000, 1e-14)

    def loss(x: Tensor) -> Tensor:
        return linear_loss(deq(x)[:, :3])

    expected = dense.finite_differences(lambda x: loss(x).detach(), x)
    found = Exact(200, 1e-13).input_gradient(deq, x, lambda logits: linear_loss(logits[:, :3]))
    assert expected.abs().max() > 1e-3
    assert_close(found, expected, rtol=1e-6, atol=1e-8)
