"""Norms: how a perturbation is measured, drawn at random, made to ascend, and projected onto a ball.

Every method takes perturbations shaped like images, (B, ...), and treats each sample on its own.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from robustdeq.base.errors import InputError, require
from robustdeq.base.shapes import PerSample, Pixels, per_sample


class Norm(ABC):
    """A norm of perturbations; subclass it as a frozen dataclass, and give an instance wherever a norm is asked for."""

    @property
    def name(self) -> str:
        """What settings, stores and tables call it; the name of the class. Override it where parameters differ."""
        return type(self).__name__

    @abstractmethod
    def size(self, offset: Pixels) -> PerSample:
        """The norm of each perturbation."""

    @abstractmethod
    def uniform(self, x: Pixels, generator: torch.Generator) -> Pixels:
        """A point drawn uniformly from the unit ball for each sample, with the shape, type and device of x."""

    @abstractmethod
    def steepest(self, gradient: Pixels) -> Pixels:
        """The step of norm 1 that a gradient ascent takes; 0 where the gradient is 0."""

    def smooth_steepest(self, gradient: Pixels, temperature: float) -> Pixels:
        """`steepest`, with a derivative that is of use: override it where that of `steepest` is zero.

        Args:
            gradient: the gradient, attached to a graph.
            temperature: how smooth the stand-in is that is differentiated, without unit.
        """
        return self.steepest(gradient)

    @abstractmethod
    def project(self, offset: Pixels, eps: float) -> Pixels:
        """The nearest point of the ball of radius eps around 0, in the Euclidean distance."""

    def steepest_within(self, gradient: Pixels, low: Pixels, high: Pixels) -> Pixels:
        """`steepest`, where each pixel may move from `low` to `high`: override it where that makes for other steps."""
        return self.steepest(gradient)

    def project_within(self, offset: Pixels, eps: float, low: Pixels, high: Pixels) -> Pixels:
        """A point of the ball between `low` ≤ 0 and `high` ≥ 0: `project`, clipped, unless a norm has a nearer one."""
        return clipped(self.project(offset, eps), low, high)


def clipped(x: Pixels, low: float | Pixels, high: float | Pixels) -> Pixels:
    """An image between two bounds; its derivative by a pixel at a bound is 1, as with `clamp` up to torch 2.14."""
    raised = torch.where(x < low, low, x)
    return torch.where(raised > high, high, raised)


@dataclass(frozen=True)
class Linf(Norm):
    """max |δ_i|."""

    @override
    def size(self, offset: Pixels) -> PerSample:
        return offset.flatten(1).abs().amax(dim=1)

    @override
    def uniform(self, x: Pixels, generator: torch.Generator) -> Pixels:
        return 2 * torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device) - 1

    @override
    def steepest(self, gradient: Pixels) -> Pixels:
        return gradient.sign()

    @override
    def smooth_steepest(self, gradient: Pixels, temperature: float) -> Pixels:
        """The sign of g, differentiated as tanh(g / (τ mean|g|)) with τ the temperature."""
        return self.steepest(gradient) + _derivative(_smooth_sign(gradient, temperature))

    @override
    def project(self, offset: Pixels, eps: float) -> Pixels:
        return clipped(offset, -eps, eps)


@dataclass(frozen=True)
class L2(Norm):
    """√Σ δ_i²."""

    @override
    def size(self, offset: Pixels) -> PerSample:
        return torch.linalg.vector_norm(offset.flatten(1), dim=1)

    @override
    def uniform(self, x: Pixels, generator: torch.Generator) -> Pixels:
        direction = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        radius = torch.rand(len(x), generator=generator, dtype=x.dtype, device=x.device) ** (1 / x[0].numel())
        return per_sample(radius, x) * _unit(direction)

    @override
    def steepest(self, gradient: Pixels) -> Pixels:
        return _unit(gradient)

    @override
    def project(self, offset: Pixels, eps: float) -> Pixels:
        return torch.where(per_sample(self.size(offset), offset) > eps, eps * _unit(offset), offset)


_SPREAD = 20


@dataclass(frozen=True)
class L1(Norm):
    """Σ |δ_i|.

    The exact steepest step moves one pixel alone, and that reaches the bounds of pixels at once. So `steepest` spreads
    the step equally over the twentieth of the pixels (rounded up) where |g| is largest, as sparse L1 descent does
    (Tramèr and Boneh, "Adversarial Training and Robustness for Multiple Perturbations", NeurIPS 2019). Neither a step
    nor the radius is spent on pixels that are at their bound: the projection is that onto the ball *and* the bounds
    (Croce and Hein, "Mind the Box: l1-APGD for Sparse Adversarial Attacks on Image Classifiers", ICML 2021).
    """

    @override
    def size(self, offset: Pixels) -> PerSample:
        return offset.flatten(1).abs().sum(dim=1)

    @override
    def uniform(self, x: Pixels, generator: torch.Generator) -> Pixels:
        """Magnitudes uniform in the simplex Σ m_i ≤ 1 (d + 1 exponential variables over their sum), random signs."""
        count = x[0].numel()
        drawn = torch.empty(len(x), count + 1, dtype=x.dtype, device=x.device).exponential_(generator=generator)
        signs = torch.randint(2, (len(x), count), generator=generator, device=x.device).to(x.dtype) * 2 - 1
        return (signs * drawn[:, :-1] / drawn.sum(dim=1, keepdim=True)).view(x.shape)

    @override
    def steepest(self, gradient: Pixels) -> Pixels:
        return self._spread(gradient, gradient.sign())

    @override
    def smooth_steepest(self, gradient: Pixels, temperature: float) -> Pixels:
        """The same step with its signs differentiated as for `Linf`; which pixels move is a constant."""
        return self.steepest(gradient) + _derivative(self._spread(gradient, _smooth_sign(gradient, temperature)))

    def _spread(self, gradient: Tensor, signs: Tensor) -> Tensor:
        """The signs at the pixels of the largest |g|, over their number, and 0 elsewhere."""
        sizes = gradient.detach().flatten(1).abs()
        chosen = sizes.topk(math.ceil(sizes.shape[1] / _SPREAD), dim=1).indices
        moves = torch.zeros_like(sizes).scatter(1, chosen, 1) * (sizes > 0)
        return signs * (moves / moves.sum(dim=1, keepdim=True).clamp_min(1)).view(signs.shape)

    @override
    def project(self, offset: Pixels, eps: float) -> Pixels:
        everywhere = torch.full_like(offset, math.inf)
        return self.project_within(offset, eps, -everywhere, everywhere)

    @override
    def steepest_within(self, gradient: Pixels, low: Pixels, high: Pixels) -> Pixels:
        """`steepest` among the pixels that are not at the bound that they are pushed to."""
        return self.steepest(torch.where(torch.where(gradient > 0, high, -low) > 0, gradient, 0))

    @override
    def project_within(self, offset: Pixels, eps: float, low: Pixels, high: Pixels) -> Pixels:
        """The nearest point of both: sign(v) min(max(|v| − θ, 0), room), at the least θ ≥ 0 that leaves the norm eps.

        The norm is linear in θ between the values at which an entry becomes 0, |v|, or leaves its bound, |v| − room, so
        that θ follows from these in order (as without bounds in Duchi et al., ICML 2008, Fig. 1).
        """
        sizes, room = offset.abs(), torch.where(offset > 0, high, -low)
        points = torch.cat([sizes.flatten(1), (sizes - room).clamp_min(0).flatten(1)], dim=1)
        ordered, order = points.sort(dim=1, descending=True)
        slopes = 1.0 - 2.0 * (order >= points.shape[1] // 2).to(points)
        count, total = slopes.cumsum(dim=1), (slopes * ordered).cumsum(dim=1)
        last = (total - count * ordered <= eps).sum(dim=1, keepdim=True).clamp_min(1) - 1
        threshold = (total.gather(1, last) - eps) / count.gather(1, last).clamp_min(1)
        shrunk = (sizes - per_sample(threshold.clamp_min(0)[:, 0], sizes)).clamp_min(0).minimum(room) * offset.sign()
        inside = clipped(offset, low, high)
        return torch.where(per_sample(self.size(inside), offset) > eps, shrunk, inside)


_NORMS: dict[str, Norm] = {norm.name: norm for norm in (Linf(), L2(), L1())}


def register(norm: str | Norm) -> str:
    """The name of a norm, under which `named` finds it again: settings hold the name and stay plain values.

    Args:
        norm: the name of a known norm, or any norm, which is known by its name from then on.

    Raises:
        InputError: there is no norm of that name, or another one has it already.
    """
    if isinstance(norm, str):
        return named(norm).name
    if _NORMS.setdefault(norm.name, norm) != norm:
        raise InputError(f"there is another norm named {norm.name!r}; give this one a name of its own.")
    return norm.name


def named(name: str) -> Norm:
    """The norm of that name; raises `InputError` where there is none."""
    require(name in _NORMS, f"norm is {name!r}; choose one of {', '.join(map(repr, _NORMS))}, or give a Norm.")
    return _NORMS[name]


def _unit(x: Pixels) -> Pixels:
    """Each sample over its Euclidean norm; scaled first, so that no square leaves the range of the format."""
    tiny = torch.finfo(x.dtype).tiny
    x = x / per_sample(x.flatten(1).abs().amax(dim=1).clamp_min(tiny), x)
    return x / per_sample(torch.linalg.vector_norm(x.flatten(1), dim=1).clamp_min(tiny), x)


def _smooth_sign(gradient: Pixels, temperature: float) -> Pixels:
    scale = gradient.flatten(1).abs().mean(dim=1).clamp_min(torch.finfo(gradient.dtype).tiny)
    return torch.tanh(gradient / (temperature * per_sample(scale, gradient)))


def _derivative(x: Tensor) -> Tensor:
    """Zero, with the derivative of x."""
    return x - x.detach()
