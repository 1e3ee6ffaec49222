"""An attack that climbs one model after another: what the first finds is where the next one starts.

A gradient that is right but leads nowhere near by (that of a defense which optimises, say) still makes an adversary of
another model stronger. An adaptive attack uses both (Tramèr et al., "On Adaptive Attacks to Adversarial Example
Defenses", NeurIPS 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from typing_extensions import override

from robustdeq.attacks.pgd import PGD
from robustdeq.base.errors import InputError, require
from robustdeq.base.shapes import Logits, Pixels
from robustdeq.deq.model import Loss


class Stages(nn.Module):
    """The models that are climbed one after another; as a module it is the last of them.

    Args:
        models: at least one, in order.

    Raises:
        InputError: there is none.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        require(models, "there is no model to climb; give at least one.")
        self.models = nn.ModuleList(models)

    def forward(self, x: Pixels) -> Logits:
        """The logits of the last model."""
        return self.models[-1](x)


@dataclass(frozen=True)
class ContinuedPGD(PGD):
    """PGD on the models of `Stages`, each run starting where the one before ended; all settings are those of `PGD`."""

    @property
    @override
    def label(self) -> str:
        return f"PGD on one model after another, {self.effort}"

    @override
    def run(self, surrogate: nn.Module, x: Pixels, start: Pixels, loss: Loss) -> Pixels:
        """Climb every model from where the one before ended, and return the last iterate."""
        if not isinstance(surrogate, Stages):
            raise InputError(f"the surrogate is a {type(surrogate).__name__}; give the models to climb as Stages.")
        for model in surrogate.models:
            start = super().run(model, x, start, loss)
        return start
