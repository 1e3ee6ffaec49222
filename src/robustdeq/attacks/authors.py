"""The attacks of AutoAttack as their authors' own code, `pyautoattack`, has them, with the same draws for all images.

So what becomes of an image does not depend on those beside it: it is what the authors' code does to it alone. Plain
APGD in L1 and later runs of FAB still draw for every image of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted, L1_projection
from pyautoattack.fab_pt import FABAttack_PT
from pyautoattack.square import SquareAttack
from torch import Tensor
from typing_extensions import override

__all__ = ["FABAttack_PT", "SharedAPGDAttack", "SharedSquareAttack", "SharedTargetedAPGDAttack"]


class SharedAPGDAttack(APGDAttack):
    """APGD with runs that start at the same offset from all images.

    In L1 each image draws its own, unless the balls are widened: the authors' code takes a start that it is given for
    one that was climbed to, and moves fewer pixels from there.
    """

    eps: float
    seed: int

    @override
    def init_hyperparam(self, x: Tensor) -> None:
        super().init_hyperparam(x)
        self.starts = torch.Generator().manual_seed(self.seed)

    @override
    def attack_single_run(self, x: Tensor, y: Tensor, x_init: Tensor | None = None) -> Any:
        own = x_init is None and not (self.norm == "L1" and self.use_rs)
        return super().attack_single_run(x, y, self._start(x) if own else x_init)

    @override
    def decr_eps_pgd(self, x: Tensor, y: Tensor, epss: list[float], iters: list[int], use_rs: bool = True) -> Any:
        """In balls that shrink, from a start in the widest."""
        return super().decr_eps_pgd(x, y, epss, iters, use_rs=False)

    def _start(self, x: Tensor) -> Tensor:
        draw = torch.rand if self.norm == "Linf" else torch.randn
        drawn = draw((1, *x.shape[1:]), generator=self.starts).to(x)
        if self.norm == "L1":
            start = x + drawn
            for _ in range(2):  # as often as theirs: rounding decides which pixels count as moved
                start = start + L1_projection(x, start - x, self.eps)
            return start
        return x + self.eps * self.normalize(2 * drawn - 1 if self.norm == "Linf" else drawn)


class SharedTargetedAPGDAttack(SharedAPGDAttack, APGDAttack_targeted):
    """Targeted APGD with runs that start at the same offset from all images."""


class SharedSquareAttack(SquareAttack):
    """Square with the same signs for all images."""

    @override
    def random_choice(self, shape: Sequence[int]) -> Tensor:
        """Signs of a shape (B, C, 1 or H, 1 or W), or (C, 1, 1) for one square."""
        return (
            super().random_choice([1, *shape[1:]]).expand(*shape) if len(shape) == 4 else super().random_choice(shape)
        )
