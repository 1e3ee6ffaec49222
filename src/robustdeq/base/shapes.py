"""The shapes that annotations name: samples lie along the first axis of each."""

from __future__ import annotations

from jaxtyping import Bool, Float, Integer
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
