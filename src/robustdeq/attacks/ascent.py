"""An attack under way: an adversary of every image, which of them still stand, and the random numbers of each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from robustdeq.attacks.losses import LabelledLoss, checked
from robustdeq.base.shapes import Labels, Mask, Pixels
from robustdeq.deq.model import Loss

Chosen = Int64[Tensor, "chosen"]
"""The indices of some samples."""

Bound = Callable[[Tensor], Loss]
"""The loss of some samples, by their indices."""


def generators(x: Pixels, seed: int) -> list[torch.Generator]:
    """One for each image, seeded by its pixels: what an image draws depends on no other.

    Args:
        x: the images.
        seed: beside which every image draws other numbers.
    """
    raw = x.detach().cpu().contiguous().flatten(1).view(torch.uint8).numpy()
    keys = [hashlib.blake2b(row.tobytes(), digest_size=8, key=str(seed).encode()).digest() for row in raw]
    return [torch.Generator(x.device).manual_seed(int.from_bytes(key, "little", signed=True)) for key in keys]


@dataclass(eq=False)
class Ascent:
    """An attack under way.

    Attributes:
        surrogate: what is climbed.
        judge: what decides which images have fallen.
        x: the images.
        y: their labels, or, targeted, the classes to reach.
        found: the adversary of each image so far.
        standing: the indices of those that are climbed on.
        generators: of the random numbers of each image.
    """

    surrogate: nn.Module
    judge: nn.Module
    x: Pixels
    y: Labels
    found: Pixels
    standing: Chosen
    generators: list[torch.Generator]

    @classmethod
    def begin(cls, surrogate: nn.Module, judge: nn.Module, x: Pixels, y: Labels, seed: int) -> Ascent:
        """With all images standing, as they are."""
        return cls(surrogate, judge, x, y, x.clone(), torch.arange(len(x), device=x.device), generators(x, seed))

    @property
    def by_chance(self) -> bool:
        """Whether chance has a say, and the judge is a mean of draws."""
        return getattr(self.judge, "readings", 1) > 1

    def begin_at(self, start: Callable[[Pixels, torch.Generator], Pixels]) -> None:
        """Put all that stand where a run starts.

        Args:
            start: makes it, from one image, (1, ...), and its random numbers.
        """
        chosen = self.standing
        self.found[chosen] = torch.cat([start(self.x[i : i + 1], self.generators[i]) for i in chosen.tolist()])

    def keep(self, standing: Mask) -> None:
        """Leave those alone from now on, among all that stood, that do not stand."""
        self.standing = self.standing[standing]

    def spare(self, fooled: Callable[[nn.Module, Pixels, Labels], Mask]) -> None:
        """Leave those alone from now on whose adversaries do what they are for.

        Args:
            fooled: whether they do, from the judge, the adversaries and y.
        """
        if len(self.standing):
            self.keep(~fooled(self.judge, self.found[self.standing], self.y[self.standing]))

    def labelled(self, loss: LabelledLoss) -> Bound:
        """The loss of some samples, whose labels are bound to it; it raises `InputError` where the model lacks one."""
        return lambda chosen: checked(loss, self.y[chosen])
