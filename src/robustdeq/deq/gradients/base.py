"""What gradients share: families that exist at every state, and a model whose backward pass is a gradient."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from robustdeq.base.derivative import derivative
from robustdeq.base.errors import check_made
from robustdeq.base.shapes import Injected, Logits, Pixels
from robustdeq.deq.model import DEQ, Gradient, Loss
from robustdeq.deq.modes import frozen
from robustdeq.deq.solve import Solution


@dataclass(frozen=True)
class Family(Gradient):
    """A gradient that exists for every state z_1 … z_{N+1}, so that all of them come from one sweep.

    Args:
        state: n, from 1 to N + 1, the one that it is for by itself; None for N + 1, the final state.
    """

    state: int | None = None

    @override
    def check(self, deq: DEQ) -> None:
        if self.state is not None:
            deq.check_state(self.state)

    @abstractmethod
    def sweep(self, deq: DEQ, solution: Solution, loss: Loss, states: range) -> Iterator[tuple[int, Injected]]:
        """Yield (n, the gradient with respect to the injection u at z_n) for the states asked for, in order."""

    @abstractmethod
    def sweep_evaluations(self, deq: DEQ) -> int:
        """The cost of a sweep over all states, counted as in `evaluations`."""

    def recorded_solution(self, deq: DEQ, x: Pixels, until: int | None) -> Solution:
        """The solve that a sweep runs over."""
        return deq.solution(x, until=until)

    def input_gradients(self, deq: DEQ, x: Pixels, loss: Loss) -> Float[Tensor, "states batch *image"]:
        """The gradients at all states z_1 … z_{N+1}, from one sweep; arguments as for `input_gradient`."""
        with frozen(deq), torch.enable_grad():
            x = x.detach().requires_grad_()
            solution = self.recorded_solution(deq, x, None)
            swept = self.sweep(deq, solution, loss, range(1, deq.last_state + 1))
            return torch.stack([derivative(solution.u, x, u_bar, retain=True) for _, u_bar in swept])


class Surrogate(nn.Module):
    """A model x → logits whose backward pass is a gradient of our choice: what an attack differentiates.

    For gradients that read the loss at several states (`SimultaneousAdjoint`, `Ensemble`), the backward pass of the
    logits knows only the cotangent at one of them and takes the loss to be linear with that cotangent;
    `input_gradient` knows the loss itself.

    Args:
        deq: the model.
        gradient: the gradient.

    Raises:
        InputError: the model lacks a state that the gradient asks for.
    """

    def __init__(self, deq: DEQ, gradient: Gradient) -> None:
        super().__init__()
        check_made(gradient=gradient)
        gradient.check(deq)
        self.deq = deq
        self.gradient = gradient

    def forward(self, x: Pixels) -> Logits:
        """The logits that the gradient belongs to."""
        return self.gradient.logits(self.deq, x)

    def input_gradient(self, x: Pixels, loss: Loss) -> Pixels:
        """See `Gradient.input_gradient`."""
        return self.gradient.input_gradient(self.deq, x, loss)

    def differentiates(self, target: nn.Module) -> bool:
        """Whether the backward pass of another module (a `Defended`, say) is this gradient of this model already."""
        return getattr(target, "deq", None) is self.deq and self.gradient.true_of(getattr(target, "defense", None))
