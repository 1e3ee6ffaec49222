"""Gradients from one model, judgement by another: BPDA (Athalye, Carlini and Wagner, ICML 2018).

An attack library sees one model. With a surrogate alone it stops as soon as the surrogate is fooled, and so overfits to
the state that the surrogate reads (paper, §6.3); here success, losses and step sizes follow from the defended logits,
and only the backward pass is the surrogate's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robustdeq.attacks.pgd import finite_or_zero
from robustdeq.base.derivative import derivative
from robustdeq.base.shapes import Logits, Pixels
from robustdeq.deq.solve import attach


class Judged(nn.Module):
    """A model x → logits with the value of one model and the backward pass of another.

    The cotangent of the target's logits is pulled back by the surrogate. Where the surrogate says that this is the
    target's own backward pass (`Surrogate.differentiates`), the target alone runs: one solve gives value and gradient.
    The gradient of a sample is zero where it is not finite.

    Args:
        surrogate: the model whose backward pass is used: a `Surrogate`, or any module x → logits.
        target: the model whose logits are seen (a `Defended`, say); None for the surrogate.
    """

    def __init__(self, surrogate: nn.Module, target: nn.Module | None = None) -> None:
        super().__init__()
        self.target = surrogate if target is None else target
        differentiates = getattr(surrogate, "differentiates", None)
        self.surrogate = self.target if differentiates is not None and differentiates(self.target) else surrogate
        self.training = any(getattr(model, "deq", model).training for model in (self.surrogate, self.target))

    def answers(self, x: Pixels) -> Logits:
        """The logits of the target as they are: not finite for a sample whose solve diverged."""
        if not (torch.is_grad_enabled() and x.requires_grad):
            with torch.no_grad():
                return self.target(x)
        leaf = x.detach().requires_grad_()
        differentiable = self.surrogate(leaf)
        with torch.no_grad():
            value = differentiable if self.target is self.surrogate else self.target(leaf.detach())

        def pull_back(cotangent: Tensor, tensors: tuple[Tensor, ...]) -> Sequence[Tensor]:
            return [finite_or_zero(derivative(differentiable, leaf, cotangent, retain=True))]

        return attach(value, pull_back, (x,))

    def forward(self, x: Pixels) -> Logits:
        """The logits of the target, a row that is not finite replaced by a constant one of zeros.

        Where x needs no gradient, the surrogate does not run.
        """
        logits = self.answers(x)
        return torch.where(logits.isfinite().all(dim=1, keepdim=True), logits, 0)
