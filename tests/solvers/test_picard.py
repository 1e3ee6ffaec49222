"""Picard iteration is the damped loop."""

import pytest
import torch
from torch.testing import assert_close

import dense
from cells import CELLS, images, make_deq
from robustdeq.solvers import Picard

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("damping", [1.0, 0.3])
def test_iterates_are_those_of_the_loop(cell: str, damping: float) -> None:
    deq, x = make_deq(cell), images()
    function, z = dense.cell_of(deq, x), dense.start_of(deq, x)
    trajectory = Picard(max_steps=7, tol=0, damping=damping).solve(function, z)
    for n in range(7):
        z = (1 - damping) * z + damping * function(z)
        assert_close(trajectory.flat_state(n + 1), z, rtol=1e-12, atol=1e-12)


def test_inverse_is_a_multiple_of_the_identity() -> None:
    trajectory = Picard(max_steps=3, damping=0.3).solve(torch.cos, torch.zeros(2, 4))
    v = torch.randn(2, 4)
    assert_close(trajectory.inverse(2).matvec(v), -0.3 * v)
    assert_close(trajectory.inverse(2).rmatvec(v), -0.3 * v)
