"""The joint attack: states, adjoint and input iterated together (Eq. 12; Gurumurthy et al., NeurIPS 2021).

    z_{n+1} = (1 − λ) z_n + λ f(z_n; x_n)
    u_{n+1} = (1 − λ) u_n + λ (J(z_n; x_n)ᵀ u_n + ∂L(z_n)/∂z)
    x_{n+1} = Π(x_n + η d),   d the direction of steepest ascent along (∂f(z_n; x_n)/∂x) u_n,

with Π the projection onto the ball, z_0 the model's and u_0 = 0. Where Eq. 12 minimises over x with the bare gradient,
an attack ascends, in the geometry of its norm. z and u take damped Picard steps: a quasi-Newton method builds its
estimate from steps of one fixed map, and this map moves with every step of x.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import override

from robustdeq.attacks.base import Cost, deq_behind
from robustdeq.attacks.pgd import PGD, finite_or_zero
from robustdeq.base.derivative import derivative
from robustdeq.base.errors import require
from robustdeq.base.shapes import Flat, Pixels
from robustdeq.deq.cell import Linearization
from robustdeq.deq.model import DEQ, Loss, total_loss
from robustdeq.deq.modes import frozen


@dataclass(frozen=True, eq=False)
class JointIterate:
    """One iterate of the joint iteration.

    Attributes:
        state: z_n, (B, ...).
        adjoint: u_n, flat, (B, D).
        x: x_n, shaped like the images.
    """

    state: Tensor
    adjoint: Flat
    x: Pixels


@dataclass(frozen=True)
class JointAttack(PGD):
    """Climb while the model is still solving: one evaluation of f and one vector-Jacobian product per step.

    `eps`, `norm`, `random_start`, `restarts`, `seed`, `targeted` and `bounds` are those of `PGD`. It attacks a DEQ, or
    the DEQ behind a `Surrogate` or `Defended`, whose gradient plays no part.

    Args:
        step_size: η, how far x goes in each step.
        steps: how many steps of z, u and x.
        damping: λ in (0, 1]; below 1 where the cell alone does not contract.
    """

    step_size: float = 2 / 255
    steps: int = 50
    damping: float = 0.5

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.damping <= 1, f"damping is {self.damping}; give a number in (0, 1].")

    @property
    @override
    def cost(self) -> Cost:
        """No gradient of the surrogate; f and its vector-Jacobian product once per step."""
        return Cost(0, self.restarts - 1, 3 * self.steps * self.restarts)

    @property
    @override
    def label(self) -> str:
        return f"joint attack, {self.effort}"

    @property
    @override
    def climbs(self) -> str:
        return f"joint iteration of z, u and x, λ = {self.damping:g}"

    @override
    def run(self, surrogate: nn.Module, x: Pixels, start: Pixels, loss: Loss) -> Pixels:
        """Iterate from `start` and return the last input; one whose states are not finite stays where it is."""
        return deque(self.iterates(deq_behind(surrogate), x, loss, start), maxlen=1)[0].x

    def iterates(self, deq: DEQ, x: Pixels, loss: Loss, start: Pixels) -> Iterator[JointIterate]:
        """Yield the iterates 1 … `steps` from x_0 = `start`, in the ball around x, of a loss (B, K) → (B,)."""
        with torch.no_grad():
            _, _, state = deq.bind(start)
        adjoint = torch.zeros_like(state).flatten(1)
        for _ in range(self.steps):
            leaf, read = (part.detach().requires_grad_() for part in (start, state))
            with frozen(deq), torch.enable_grad():
                injection, cell, _ = deq.bind(leaf)
                linearization = Linearization(cell, state)
                c = derivative(total_loss(loss, deq.classify(cell, read)), read).flatten(1)
            pulled, (on_injection,) = linearization.vjp(adjoint, (injection,))
            gradient = finite_or_zero(derivative(injection, leaf, on_injection))
            state = torch.lerp(state, linearization.value, self.damping)
            adjoint = torch.lerp(adjoint, pulled + c, self.damping)
            start = self.step(start, gradient, x)
            yield JointIterate(state, adjoint, start)
