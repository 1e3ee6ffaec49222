"""Threat models: the perturbations that an adversary may use."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from robustdeq.base.errors import InputError, require
from robustdeq.base.norms import Norm, clipped, named, register
from robustdeq.base.shapes import Labels, Pixels


@dataclass(frozen=True)
class ThreatModel:
    """The ball ‖x' − x‖ ≤ ε within the range of pixels.

    Args:
        eps: ε, in the units of pixels.
        norm: `"Linf"`, `"L2"`, `"L1"` or any `Norm`; it is held by its name.
        bounds: the least and the greatest pixel, or feature; −∞ or ∞ where there is none.

    Raises:
        InputError: a setting is out of its range.
    """

    eps: float
    norm: str | Norm = "Linf"
    bounds: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        require(0 <= self.eps < math.inf, f"eps is {self.eps}; give a radius of 0 or more that is finite.")
        object.__setattr__(self, "norm", register(self.norm))
        low, high = self.bounds
        if not low < high:
            raise InputError(f"bounds are {self.bounds}; give the least pixel before the greatest.")

    @property
    def measure(self) -> Norm:
        """The norm itself."""
        return named(str(self.norm))

    def check(self, x: Pixels, y: Labels) -> None:
        """Raise `InputError` unless x are finite pixels within the bounds, y their labels, and ε not beyond these."""
        for name, given in (("x", x), ("y", y)):
            require(isinstance(given, Tensor), f"{name} is {type(given).__name__}; give a tensor.")
        if not x.is_floating_point():
            raise InputError(f"x has dtype {x.dtype}; convert it to floating-point pixels in {list(self.bounds)}.")
        if y.shape != x.shape[:1] or y.is_floating_point():
            raise InputError(
                f"y has shape {tuple(y.shape)} and dtype {y.dtype} for {len(x)} images; give one integer label each."
            )
        require(len(x) != 0, "x holds no image; give at least one.")
        require(
            bool(torch.stack(x.aminmax()).isfinite().all()),
            "x has pixels that are not finite; remove the images that hold nan or inf.",
        )
        low, high = self.bounds
        largest = float(self.measure.size(torch.full_like(x[:1], high - low, dtype=torch.float64)))
        if self.eps > largest * (1 + 1e-6):
            raise InputError(
                f"eps is {self.eps:g}, and pixels in [{low:g}, {high:g}] differ by {largest:g} in {self.norm} at most; "
                "give it in the units of pixels, such as 8/255."
            )
        if self._leaves_bounds(x):
            least, greatest = float(x.min()), float(x.max())
            off = max(low - least, greatest - high)
            require(
                off > 1e-5 * max(abs(least), abs(greatest)),
                f"x leaves [{low:g}, {high:g}] by {off:.2g}, no more than rounding does; clamp it to these bounds.",
            )
            raise InputError(f"x has pixels from {least:g} to {greatest:g}; scale them to [{low:g}, {high:g}].")

    def check_adversaries(self, adversaries: Pixels, x: Pixels) -> None:
        """Raise `InputError` unless there is one for every image, finite, within the bounds and in the ball around it.

        A norm may exceed ε by 8 u (ε + ‖m‖), where u is the precision of x (`torch.finfo(x.dtype).eps`) and m an image
        whose pixels are all of the greatest magnitude there is: what rounding x + δ and its norm can do.

        Args:
            adversaries: what an attack has made.
            x: the images it was made of.
        """
        if adversaries.shape != x.shape:
            raise InputError(
                f"the attack made adversaries of shape {tuple(adversaries.shape)} from images of shape "
                f"{tuple(x.shape)}; return one for each, of the same shape."
            )
        if not bool(adversaries.isfinite().all()):
            raise InputError("the attack made pixels that are not finite, which count for nothing; mend the attack.")
        if self._leaves_bounds(adversaries):
            low, high = self.bounds
            raise InputError(
                f"the attack made pixels from {float(adversaries.min()):g} to {float(adversaries.max()):g}, outside "
                f"[{low:g}, {high:g}], which count for nothing; clip them."
            )
        size = float(self.measure.size(adversaries - x).max())
        largest = float(self.measure.size(torch.full_like(x[:1], float(torch.cat([x, adversaries]).abs().max()))))
        if not size <= self.eps + 8 * torch.finfo(x.dtype).eps * (self.eps + largest):
            raise InputError(
                f"the attack moved an image by {size:g} in {self.norm}, further than eps = {self.eps:g}, which counts "
                "for nothing; project it."
            )

    def _leaves_bounds(self, x: Tensor) -> bool:
        low, high = self.bounds
        return bool((x.min() < low) | (x.max() > high))

    @property
    def span(self) -> float:
        """How far apart two pixels can be; 100 ε where there are no bounds."""
        low, high = self.bounds
        return high - low if math.isfinite(high - low) else 100 * self.eps

    def box(self, x: Pixels) -> tuple[float, float]:
        """The bounds; where there is none, what the ball around no pixel of these images leaves, in any norm here."""
        low, high = self.bounds
        return (
            low if math.isfinite(low) else float(x.min()) - self.eps,
            high if math.isfinite(high) else float(x.max()) + self.eps,
        )

    def random_start(self, x: Pixels, generator: torch.Generator) -> Pixels:
        """A point drawn uniformly from the ball around x, clipped to the bounds."""
        return self.clip(x + self.eps * self.measure.uniform(x, generator))

    def steepest(self, gradient: Pixels, at: Pixels) -> Pixels:
        """The step of unit norm along which the gradient ascends from images; see `Norm.steepest_within`."""
        low, high = self.bounds
        return self.measure.steepest_within(gradient, low - at, high - at)

    def project(self, x: Pixels, center: Pixels) -> Pixels:
        """A point of the ball around `center` within the bounds that is near x; see `Norm.project_within`."""
        low, high = self.bounds
        return self.clip(center + self.measure.project_within(x - center, self.eps, low - center, high - center))

    def clip(self, x: Pixels) -> Pixels:
        """The image with its pixels within the bounds."""
        return clipped(x, *self.bounds)
