"""Threat models: the perturbations that an adversary may use."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from robustdeq.base.errors import InputError


class Norm(StrEnum):
    """The norm that bounds a perturbation."""

    LINF = "Linf"
    L2 = "L2"


def _per_sample(values: Float[Tensor, "batch"], x: Tensor) -> Tensor:
    return values.view(-1, *[1] * (x.ndim - 1))


def _unit(x: Float[Tensor, "batch *image"]) -> Float[Tensor, "batch *image"]:
    """Each sample over its Euclidean norm; scaled first, so that no square leaves the range of the format."""
    tiny = torch.finfo(x.dtype).tiny
    x = x / _per_sample(x.flatten(1).abs().amax(dim=1).clamp_min(tiny), x)
    return x / _per_sample(torch.linalg.vector_norm(x.flatten(1), dim=1).clamp_min(tiny), x)


@dataclass(frozen=True)
class ThreatModel:
    """The ball ‖x' − x‖ ≤ ε within the range of pixels.

    Args:
        eps: ε, in the units of pixels.
        norm: `"Linf"` or `"L2"`.
        bounds: the least and the greatest pixel.

    Raises:
        InputError: a setting is out of its range.
    """

    eps: float
    norm: str = "Linf"
    bounds: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if not self.eps >= 0:
            raise InputError(f"eps is {self.eps}; give a radius of 0 or more.")
        if self.norm not in list(Norm):
            raise InputError(f"norm is {self.norm!r}; choose one of {', '.join(repr(str(norm)) for norm in Norm)}.")
        low, high = self.bounds
        if not low < high:
            raise InputError(f"bounds are {self.bounds}; give the least pixel before the greatest.")

    def check(self, x: Float[Tensor, "batch *image"], y: Integer[Tensor, "batch"]) -> None:
        """Raise `InputError` unless x are finite pixels within the bounds and y one label per image."""
        if not x.is_floating_point():
            raise InputError(f"x has dtype {x.dtype}; convert it to floating-point pixels in {list(self.bounds)}.")
        if y.shape != x.shape[:1] or y.is_floating_point():
            raise InputError(
                f"y has shape {tuple(y.shape)} and dtype {y.dtype} for {len(x)} images; give one integer label each."
            )
        if len(x) == 0:
            raise InputError("x holds no image; give at least one.")
        if not bool(x.isfinite().all()):
            raise InputError("x has pixels that are not finite; remove the images that hold nan or inf.")
        low, high = self.bounds
        if float(x.min()) < low or float(x.max()) > high:
            raise InputError(
                f"x has pixels from {float(x.min()):g} to {float(x.max()):g}; scale them to [{low:g}, {high:g}]."
            )

    def random_start(
        self, x: Float[Tensor, "batch *image"], generator: torch.Generator
    ) -> Float[Tensor, "batch *image"]:
        """A point drawn uniformly from the ball around x, clipped to the bounds."""
        if self.norm == Norm.LINF:
            noise = torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device)
            return self.clip(x + self.eps * (2 * noise - 1))
        dimension = x[0].numel()
        direction = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        radius = torch.rand(len(x), generator=generator, dtype=x.dtype, device=x.device) ** (1 / dimension)
        return self.clip(x + self.eps * _per_sample(radius, x) * _unit(direction))

    def steepest(self, gradient: Float[Tensor, "batch *image"]) -> Float[Tensor, "batch *image"]:
        """The direction of unit norm along which the gradient ascends most."""
        return gradient.sign() if self.norm == Norm.LINF else _unit(gradient)

    def project(
        self, x: Float[Tensor, "batch *image"], center: Float[Tensor, "batch *image"]
    ) -> Float[Tensor, "batch *image"]:
        """The nearest point of the ball around `center`, clipped to the bounds."""
        offset = x - center
        if self.norm == Norm.LINF:
            offset = offset.clamp(-self.eps, self.eps)
        else:
            norms = _per_sample(torch.linalg.vector_norm(offset.flatten(1), dim=1), offset)
            offset = torch.where(norms > self.eps, self.eps * _unit(offset), offset)
        return self.clip(center + offset)

    def clip(self, x: Float[Tensor, "batch *image"]) -> Float[Tensor, "batch *image"]:
        """The image with its pixels within the bounds."""
        return x.clamp(*self.bounds)
