"""The shapes that annotations name, with samples along the first axis of each, and how a number each is spread."""

from __future__ import annotations

from jaxtyping import Bool, Float, Integer, Shaped
from torch import Tensor

Pixels = Float[Tensor, "batch *image"]
"""Images, and what is shaped like them: adversaries, steps, gradients."""

Labels = Integer[Tensor, "batch"]
"""The index of a class for each sample."""

Logits = Float[Tensor, "batch classes"]
"""One number per sample and class."""

State = Float[Tensor, "batch *state"]
"""A state of a cell, in the cell's own shape."""

Flat = Float[Tensor, "batch dim"]
"""A state, or what is multiplied with one, with a single axis beside that of the samples."""

Injected = Float[Tensor, "batch *injection"]
"""What a cell is given of its input, or the gradient with respect to it."""

PerSample = Float[Tensor, "batch"]
"""One number per sample."""

Mask = Bool[Tensor, "batch"]
"""Yes or no for each sample."""


def per_sample(values: Shaped[Tensor, "batch"], like: Tensor) -> Tensor:
    """A number per sample with as many axes as a tensor, so that they can be multiplied."""
    return values.view(-1, *[1] * (like.ndim - 1))
