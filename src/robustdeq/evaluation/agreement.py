"""How far an estimated gradient agrees with the true one, through the solver."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from robustdeq.base.errors import InputError
from robustdeq.base.shapes import Pixels
from robustdeq.deq import DEQ
from robustdeq.deq.defenses import EarlyState
from robustdeq.deq.gradients import SHINE, Gradient, JacobianFree, ThroughSolver, UnrolledIntermediate
from robustdeq.deq.model import Loss
from robustdeq.evaluation.protocol import Estimators

Gradients = Float[Tensor, "states batch *image"]


def true_gradients(deq: DEQ, x: Pixels, loss: Loss) -> Gradients:
    """The gradient of a loss, logits (B, K) → (B,), at every state z_1 … z_{N+1}, through the solver."""
    states = range(1, deq.last_state + 1)
    return torch.stack([ThroughSolver(EarlyState(n)).input_gradient(deq, x, loss) for n in states])


def estimated_gradients(deq: DEQ, x: Pixels, loss: Loss, estimators: Estimators) -> dict[str, Gradients]:
    """Every estimate of `true_gradients` that the model has, by name; one of the final state stands for all of them.

    "adjoint u_{n+1}" is the adjoint one state later, the one that the paper found to hurt z_n most (Fig. 4).
    """
    found = {}
    if _has(deq, adjoint := estimators.adjoint()):
        adjoints = adjoint.input_gradients(deq, x, loss)
        found = {"adjoint u_n": adjoints, "adjoint u_{n+1}": torch.cat([adjoints[1:], adjoints[-1:]])}
    for damping in estimators.dampings:
        for steps in estimators.steps:
            unrolled = UnrolledIntermediate(None, steps, damping)
            found[f"unrolled, k = {steps}, λ = {damping:g}"] = unrolled.input_gradients(deq, x, loss)
    ready_made: dict[str, Gradient] = {
        "ready-made, unrolled": estimators.final,
        "ready-made, exact": estimators.exact_of(deq),
        "SHINE": SHINE(),
        "Jacobian-free": JacobianFree(),
    }
    for name, gradient in ready_made.items():
        if _has(deq, gradient):
            found[name] = gradient.input_gradient(deq, x, loss).expand(deq.last_state, *x.shape)
    return found


def _has(deq: DEQ, gradient: Gradient) -> bool:
    """Whether a model has all that a gradient asks for."""
    try:
        gradient.check(deq)
    except InputError:
        return False
    return True


def cosine(a: Gradients, b: Gradients) -> Float[Tensor, "states batch"]:
    """The cosine between gradients, per state and sample; 0 where one vanishes."""
    return F.cosine_similarity(a.flatten(2), b.flatten(2), dim=2, eps=torch.finfo(a.dtype).tiny)


def equal_signs(a: Gradients, b: Gradients) -> Float[Tensor, "states batch"]:
    """The share of pixels, in percent, at which gradients have the same sign: what a step in L∞ depends on."""
    return 100 * (a.sign() == b.sign()).flatten(2).to(a.dtype).mean(dim=2)
