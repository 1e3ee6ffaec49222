"""A solve with a fixed number of steps runs on after it has converged; what it steps on then is rounding error."""

import pytest
import torch

from cells import cross_entropy, images, make_deq
from robustdeq.gradients import Exact, Gradient, SimultaneousAdjoint, ThroughSolver
from robustdeq.solvers import Broyden

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("max_steps", [20, 30, 60])
@pytest.mark.parametrize("cell", ["contractive", "bound", "own-start"])
@pytest.mark.parametrize("gradient", [ThroughSolver(), SimultaneousAdjoint()], ids=["through-solver", "adjoint"])
def test_gradient_is_that_of_the_fixed_point(gradient: Gradient, cell: str, max_steps: int, dtype: torch.dtype) -> None:
    converging = make_deq(cell, Broyden(max_steps=40, tol=1e-13))
    exact = Exact(60, 1e-12).input_gradient(converging, images(), cross_entropy)
    deq, x = make_deq(cell, Broyden(max_steps=max_steps, tol=0.0)).to(dtype), images().to(dtype)
    found = gradient.input_gradient(deq, x, cross_entropy).double()
    assert (found - exact).norm() < 1e-4 * exact.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cell", ["contractive", "bound", "own-start"])
def test_states_stay_at_the_fixed_point(cell: str, dtype: torch.dtype) -> None:
    deq, x = make_deq(cell, Broyden(max_steps=100, tol=0.0)).to(dtype), images().to(dtype)
    assert (deq.solve(x).residuals[30:] < 1e-5).all()
