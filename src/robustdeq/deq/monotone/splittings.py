"""Operator splittings as cells: steps whose fixed point is the z* = ReLU(W z* + u) of a monotone DEQ.

Winston and Kolter, "Monotone operator equilibrium networks" (NeurIPS 2020), Table 1. On the border of its grid, if it
has one, a state is held at zero, so that a circular convolution does not carry one edge of an image to the other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from robustdeq.deq.cell import BoundCell
from robustdeq.deq.monotone.kernels import Grid, apply, symbol, times
from robustdeq.deq.monotone.operators import Operator


class Positive(nn.Module):
    """The projection onto states that are nowhere negative, and zero on the border: z → max(z, 0).

    Args:
        border: the width of the border in positions.
    """

    def __init__(self, border: int = 0) -> None:
        super().__init__()
        self.border = border

    def forward(self, z: Grid) -> Grid:
        """The nearest such state."""
        if not self.border:
            return F.relu(z)
        inside = slice(self.border, -self.border)
        return F.pad(F.relu(z[:, :, inside, inside]), (self.border,) * 4)


class Splitting(nn.Module, ABC):
    """A cell whose fixed point holds the equilibrium of an operator.

    Args:
        operator: W.
        border: the width, in positions, of the border on which z is zero.
    """

    def __init__(self, operator: Operator, border: int = 0) -> None:
        super().__init__()
        self.operator = operator
        self.positive = Positive(border)

    @abstractmethod
    def bind(self, u: Tensor) -> BoundCell:
        """One step for an injection, with all that depends on the weights alone computed once."""

    @abstractmethod
    def reading(self) -> nn.Module:
        """What makes z of a state."""


class ForwardBackward(Splitting):
    """z ← max(z + α (W z + u − z), 0), with the α of the operator: each step brings every state nearer to z*."""

    @override
    def bind(self, u: Tensor) -> BoundCell:
        kernel = self.operator.kernel()
        alpha = self.operator.step(kernel.detach())
        return BoundCell(lambda z: self.positive(z.lerp(apply(kernel, z) + u, alpha)), (u, kernel))

    @override
    def reading(self) -> nn.Module:
        return nn.Identity()


class PeacemanRachford(Splitting):
    """w ← 2 (I + α (I − W))⁻¹ (v + α u) − v with v = 2 max(w, 0) − w, and z* = max(w*, 0); the α of the operator.

    The inverse is that of one matrix for each frequency of the grid.
    """

    @override
    def bind(self, u: Tensor) -> BoundCell:
        kernel = self.operator.kernel()
        alpha, weight = self.operator.reflected_step(kernel.detach()), symbol(kernel, self.operator.sides)
        identity = torch.eye(self.operator.channels, dtype=weight.dtype, device=weight.device)
        inverse = torch.linalg.inv((1 + alpha) * identity - alpha * weight)

        def step(w: Tensor) -> Tensor:
            reflected = 2 * self.positive(w) - w
            return 2 * times(inverse, reflected + alpha * u) - reflected

        return BoundCell(step, (u, inverse))

    @override
    def reading(self) -> nn.Module:
        return Positive(self.positive.border)
