"""Gradients: how a trajectory is differentiated, and a model whose backward pass is one of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from typing_extensions import override

from robustdeq.base.errors import InputError
from robustdeq.deq.model import DEQ
from robustdeq.deq.modes import frozen
from robustdeq.deq.solve import Solution
from robustdeq.deq.tail import Unroll

Loss = Callable[[Tensor], Tensor]


class _Attach(torch.autograd.Function):
    """A value whose backward pass is any linear map."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, pull_back: Callable[[Tensor], Sequence[Tensor]], *tensors: Tensor) -> Tensor:
        ctx.pull_back = pull_back
        return value.view_as(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None, None, *ctx.pull_back(*cotangents)


def attach(
    value: Tensor, pull_back: Callable[[Tensor, tuple[Tensor, ...]], Sequence[Tensor]], tensors: Sequence[Tensor]
) -> Tensor:
    """`value`, with the backward pass `pull_back`.

    Args:
        value: any tensor.
        pull_back: (cotangent of value, tensors) → the cotangent of each tensor.
        tensors: what value is differentiated with respect to; those that need no gradient are left out.
    """
    wanted = tuple(tensor for tensor in tensors if tensor.requires_grad)
    return _Attach.apply(value.detach(), lambda cotangent: pull_back(cotangent, wanted), *wanted) if wanted else value


def total_loss(loss: Loss, logits: Float[Tensor, "batch classes"]) -> Float[Tensor, ""]:
    """The sum of a per-sample loss; raises `InputError` unless the loss returns one value per sample."""
    values = loss(logits)
    if values.shape != logits.shape[:1]:
        raise InputError(
            f"the loss returned shape {tuple(values.shape)} for {len(logits)} samples; "
            "make it return one value per sample (reduction='none')."
        )
    return values.sum()


class Gradient(ABC):
    """A way to differentiate the loss of a DEQ with respect to its input."""

    def check(self, deq: DEQ) -> None:
        """Raise `InputError` where this gradient asks for a state that the model does not have."""

    @abstractmethod
    def evaluations(self, deq: DEQ) -> int:
        """The cost of one input gradient in evaluations of f, a vector-Jacobian product counted as two."""

    @abstractmethod
    def logits(self, deq: DEQ, x: Float[Tensor, "batch *image"]) -> Float[Tensor, "batch classes"]:
        """The logits of the state whose loss this gradient differentiates; their backward pass is this gradient."""

    def input_gradient(self, deq: DEQ, x: Float[Tensor, "batch *image"], loss: Loss) -> Float[Tensor, "batch *image"]:
        """The gradient of a loss with respect to the input.

        Args:
            deq: the model.
            x: the inputs.
            loss: logits (B, K) → per-sample loss (B,).

        Returns:
            The gradient for each sample, shaped like x.

        Raises:
            InputError: the loss is not per sample, or the model lacks a state that is asked for.
        """
        self.check(deq)
        with frozen(deq), torch.enable_grad():
            return self.differentiate(deq, x.detach().requires_grad_(), loss).detach()

    def differentiate(self, deq: DEQ, x: Float[Tensor, "batch *image"], loss: Loss) -> Float[Tensor, "batch *image"]:
        """The gradient at a leaf x, called by `input_gradient` with gradients enabled and the weights frozen."""
        return torch.autograd.grad(total_loss(loss, self.logits(deq, x)), x)[0]


class StateGradient(Gradient):
    """A gradient of the loss at one state, so that it also serves to train (`DEQ(..., gradient=...)`)."""

    @abstractmethod
    def read(self, solution: Solution) -> Float[Tensor, "batch *state"]:
        """The state whose loss is differentiated, attached to the injection and the weights by this gradient."""

    def until(self, deq: DEQ) -> int | None:
        """The last state of the trajectory that is needed; None for the whole solve."""
        return None

    def records(self) -> bool:
        """Whether f is to be recorded with its graph while the solver runs."""
        return False

    def reads_final(self, tail: Unroll) -> bool:
        """Whether what it reads is the final state of a model with this tail."""
        return False

    @override
    def logits(self, deq: DEQ, x: Float[Tensor, "batch *image"]) -> Float[Tensor, "batch classes"]:
        return deq.head(self.read(deq.solution(x, until=self.until(deq), record=self.records())))


class Family(Gradient):
    """A gradient that exists for every state z_1 … z_{N+1}, so that all of them come from one sweep."""

    @abstractmethod
    def sweep(
        self, deq: DEQ, solution: Solution, loss: Loss, states: range
    ) -> Iterator[tuple[int, Float[Tensor, "batch *injection"]]]:
        """Yield (n, the gradient with respect to the injection u at z_n) for the states asked for, in order."""

    @abstractmethod
    def sweep_evaluations(self, deq: DEQ) -> int:
        """The cost of a sweep over all states, counted as in `evaluations`."""

    def recorded_solution(self, deq: DEQ, x: Float[Tensor, "batch *image"], until: int | None) -> Solution:
        """The solve that a sweep runs over."""
        return deq.solution(x, until=until)

    def input_gradients(
        self, deq: DEQ, x: Float[Tensor, "batch *image"], loss: Loss
    ) -> Float[Tensor, "states batch *image"]:
        """The gradients at all states z_1 … z_{N+1}, from one sweep; arguments as for `input_gradient`."""
        with frozen(deq), torch.enable_grad():
            x = x.detach().requires_grad_()
            solution = self.recorded_solution(deq, x, None)
            swept = self.sweep(deq, solution, loss, range(1, deq.last_state + 1))
            return torch.stack([torch.autograd.grad(solution.u, x, u_bar, retain_graph=True)[0] for _, u_bar in swept])


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
        gradient.check(deq)
        self.deq = deq
        self.gradient = gradient

    def forward(self, x: Float[Tensor, "batch *image"]) -> Float[Tensor, "batch classes"]:
        """The logits that the gradient belongs to."""
        return self.gradient.logits(self.deq, x)

    def input_gradient(self, x: Float[Tensor, "batch *image"], loss: Loss) -> Float[Tensor, "batch *image"]:
        """See `Gradient.input_gradient`."""
        return self.gradient.input_gradient(self.deq, x, loss)
