"""The gradient that belongs to a model: the one that its weights are trained with."""

from __future__ import annotations

from robustdeq.deq.gradients.implicit import JacobianFree
from robustdeq.deq.gradients.phantom import Phantom
from robustdeq.deq.model import DEQ, StateGradient


def own_gradient(deq: DEQ) -> StateGradient:
    """The gradient that a model's weights are trained with, for attacks to climb the same logits by the same gradient.

    Args:
        deq: the model.

    Returns:
        `deq.gradient`. Where that is None, the phantom gradient with the steps of the tail, which is what the model
        then differentiates; where the tail makes no step, one application of f at z* (`JacobianFree`).
    """
    if deq.gradient is not None:
        return deq.gradient
    return Phantom(deq.tail.steps, deq.tail.damping) if deq.tail.steps else JacobianFree()
