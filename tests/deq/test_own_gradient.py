"""A model is attacked by the gradient that its weights are trained with."""

import pytest

from cells import make_deq
from robustdeq.deq.gradients import own_gradient
from robustdeq.deq.tail import Unroll
from robustdeq.gradients import Exact, JacobianFree, Phantom, StateGradient


@pytest.mark.parametrize(
    ("gradient", "tail", "expected"),
    [
        (Exact(7, 1e-3), Unroll(0, from_image=True), Exact(7, 1e-3)),
        (Phantom(2), Unroll(5, 0.5), Phantom(2)),
        (None, Unroll(3, 0.7), Phantom(3, 0.7)),
        (None, Unroll(0, from_image=True), JacobianFree()),
    ],
)
def test_own_gradient_is_that_of_the_weights(gradient: StateGradient | None, tail: Unroll, expected: object) -> None:
    assert own_gradient(make_deq(tail=tail, gradient=gradient)) == expected
