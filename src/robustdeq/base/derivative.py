"""The derivative of what need not depend on what it is differentiated by: zero where it does not."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from robustdeq.base.errors import require


def derivatives(
    value: Tensor, by: Sequence[Tensor], cotangent: Tensor | None = None, retain: bool = False
) -> list[Tensor]:
    """(∂value/∂t)ᵀ c for each tensor t, zeros where autograd knows of no dependence.

    Args:
        value: what is differentiated.
        by: the tensors t.
        cotangent: c, shaped like value; 1 for a value that is one number.
        retain: keep the graph.

    Raises:
        InputError: autograd is off altogether, in inference mode.
    """
    require(
        not torch.is_inference_mode_enabled(), "there are no gradients in inference mode; use torch.no_grad() instead."
    )
    live = [tensor for tensor in by if tensor.requires_grad] if value.requires_grad else []
    found: Sequence[Tensor] = ()
    if live:
        settings = {"retain_graph": retain, "allow_unused": True, "materialize_grads": True}
        found = torch.autograd.grad(value, live, cotangent, **settings)
    known = {id(tensor): gradient for tensor, gradient in zip(live, found, strict=True)}
    return [known[id(tensor)] if id(tensor) in known else torch.zeros_like(tensor) for tensor in by]


def derivative(value: Tensor, by: Tensor, cotangent: Tensor | None = None, retain: bool = False) -> Tensor:
    """The same for one tensor."""
    return derivatives(value, (by,), cotangent, retain)[0]
