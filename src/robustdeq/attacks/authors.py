"""The attacks of AutoAttack as their authors' own code, `pyautoattack`, has them."""

from __future__ import annotations

from collections.abc import Sequence

from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.fab_pt import FABAttack_PT
from pyautoattack.square import SquareAttack
from torch import Tensor
from typing_extensions import override

__all__ = ["APGDAttack", "APGDAttack_targeted", "FABAttack_PT", "SharedSquareAttack"]


class SharedSquareAttack(SquareAttack):
    """Square with the same signs for all images, so that what becomes of one does not depend on others."""

    @override
    def random_choice(self, shape: Sequence[int]) -> Tensor:
        """Signs of a shape (B, C, 1 or H, 1 or W), or (C, 1, 1) for one square."""
        return (
            super().random_choice([1, *shape[1:]]).expand(*shape) if len(shape) == 4 else super().random_choice(shape)
        )
