"""The slow-down attack climbs the residual of the solve, along its true gradient."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from cells import images, make_deq
from robustdeq import InputError
from robustdeq.attacks import SlowDown
from robustdeq.attacks.slow_down import log_residual
from robustdeq.defenses import Defended, FinalState
from robustdeq.solvers import Anderson, Broyden, Picard, Solver

pytestmark = pytest.mark.usefixtures("float64")
SOLVERS = [Broyden(max_steps=4), Anderson(max_steps=4), Picard(max_steps=4)]
Y = torch.tensor([0, 1, 2])


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)
def test_what_it_climbs_is_the_residual_of_the_last_state_with_its_true_gradient(solver: Solver) -> None:
    deq, x = make_deq(solver=solver).eval(), images()
    leaf = x.clone().requires_grad_()
    height = log_residual(deq, leaf)
    assert_close(height.detach().exp(), deq.solve(x).residuals[-1])
    (gradient,) = torch.autograd.grad(height.sum(), leaf)
    step, along = 1e-6, torch.randn_like(x)
    with torch.no_grad():
        up, down = (log_residual(deq, x + sign * step * along) for sign in (1, -1))
    assert_close((gradient * along).flatten(1).sum(dim=1), (up - down) / (2 * step), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_residuals_rise_within_the_ball(norm: str) -> None:
    deq, x = make_deq(solver=Broyden(max_steps=4)).eval(), images()
    attack = SlowDown(1.0, 0.2, steps=20, norm=norm, bounds=(-10.0, 10.0), random_start=False)
    found = attack(Defended(deq, FinalState()), x, Y)
    attack.threat.check_adversaries(found, x)
    assert (deq.solve(found).residuals[-1] > deq.solve(x).residuals[-1]).all()


def test_a_model_that_solves_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="solves nothing; give a DEQ"):
        SlowDown(bounds=(-10.0, 10.0))(nn.Flatten().eval(), images(), Y)
