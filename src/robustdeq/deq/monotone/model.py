"""Monotone DEQs: x → u = injection(x), z* = ReLU(W z* + u), logits = classifier(z*).

Injection and classifier are affine. Then z* exists, is unique, and moves with x by no more than can be computed: that
is what certificates stand on.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robustdeq.base.shapes import Pixels
from robustdeq.deq.model import DEQ
from robustdeq.deq.monotone.kernels import Grid, apply
from robustdeq.deq.monotone.operators import Operator
from robustdeq.deq.monotone.splittings import Splitting


class MonotoneDEQ(DEQ):
    """A DEQ whose equilibrium is that of a strongly monotone operator.

    Args:
        injection: affine, x → u of (B, C, H, W).
        cell: the splitting that is solved.
        classifier: affine, z → logits (B, K).
        settings: the solver, tail and gradient of a `DEQ`.
    """

    def __init__(self, injection: nn.Module, cell: Splitting, classifier: nn.Module, **settings: Any) -> None:
        super().__init__(injection, cell, nn.Sequential(cell.reading(), classifier), **settings)

    cell: Splitting
    head: nn.Sequential

    @property
    def operator(self) -> Operator:
        """W."""
        return self.cell.operator

    @property
    def classifier(self) -> nn.Module:
        """The classifier: z → logits."""
        return self.head[1]

    def equilibrium(self, x: Pixels) -> Grid:
        """The z that the model computes, from which it makes its logits."""
        with torch.no_grad():
            solution = self.solution(x)
            return self.head[0](solution.cell.structure.unpack(solution.final))

    def residual(self, x: Pixels, z: Grid) -> Float[Tensor, "batch channels height width"]:
        """The residual z − max(W z + u, 0): zero at z* and nowhere else."""
        return z - self.cell.positive(apply(self.operator.kernel(), z) + self.injection(x))
