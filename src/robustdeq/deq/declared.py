"""Defenses that say of themselves how they are to be attacked: what has no derivative, and what is left to chance.

BPDA and EOT, after Athalye, Carlini and Wagner ("Obfuscated gradients give a false sense of security", ICML 2018, §4).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn
from typing_extensions import override

from robustdeq.base.errors import InputError, check_counts, require
from robustdeq.base.history import version
from robustdeq.base.shapes import Logits, Pixels
from robustdeq.deq.defenses import Defended, Defense, FinalState, Mean


@dataclass(frozen=True)
class Transformed(Defense):
    """A defense of images that are transformed first, and differentiated as if by something else (BPDA).

    Args:
        transform: images to images, such as rounding.
        inner: the defense of what comes out.
        backward: images to images of the same shape, whose derivative stands for that of the transform; the identity by
            default, and None for the transform's own derivative.
    """

    transform: Callable[[Pixels], Pixels]
    inner: Defense = field(default_factory=FinalState)
    backward: Callable[[Pixels], Pixels] | None = field(default_factory=nn.Identity)

    @property
    @override
    def label(self) -> str:
        return f"{getattr(self.transform, '__name__', type(self.transform).__name__)}, {self.inner.label}"

    @override
    def check(self, model: nn.Module) -> None:
        self.inner.check(model)

    def transformed(self, x: Pixels) -> Pixels:
        """The images transformed; where gradients are enabled, with the derivative that stands for the transform's."""
        before = version(x)
        made = self.transform(x)
        require(version(x) == before, "the transform changes the images it is given; make it return others.")
        if self.backward is not None and torch.is_grad_enabled():
            stand_in = self.backward(x)
            if stand_in.shape != made.shape:
                raise InputError(
                    f"the transform makes {tuple(made.shape)}, its backward {tuple(stand_in.shape)}; make them equal."
                )
            made = stand_in + (made - stand_in).detach()
        return made

    @override
    def logits(self, model: nn.Module, x: Pixels) -> Logits:
        return self.inner.logits(model, self.transformed(x))

    @override
    def surrogates(self, defended: Defended) -> dict[str, nn.Module]:
        """Those of the inner defense where it has its own, after the transform."""
        own = _own_surrogates(self.inner, defended)
        return {name: _Transformed(self, module) for name, module in own.items()} or super().surrogates(defended)

    @override
    def evaluations(self, model: nn.Module) -> int:
        return self.inner.evaluations(model)

    @property
    @override
    def judgements(self) -> int:
        return self.inner.judgements

    @property
    @override
    def draws(self) -> int:
        return self.inner.draws


@dataclass(frozen=True)
class Randomised(Defense):
    """A defense that is left to chance: attacks climb the mean of several draws (EOT), and several have to stand.

    Args:
        inner: the defense, which draws from torch's generator.
        samples: of how many readings the logits are averaged that are climbed.
        readings: how many readings of an adversary must all be correct.

    Raises:
        InputError: a count is not positive.
    """

    inner: Defense
    samples: int = 8
    readings: int = 4

    def __post_init__(self) -> None:
        check_counts(samples=self.samples, readings=self.readings)

    @property
    @override
    def draws(self) -> int:
        return self.samples

    @property
    @override
    def judgements(self) -> int:
        return self.readings

    @property
    @override
    def label(self) -> str:
        return self.inner.label

    @override
    def check(self, model: nn.Module) -> None:
        self.inner.check(model)

    @override
    def surrogates(self, defended: Defended) -> dict[str, nn.Module]:
        """The mean of draws of each of those of the inner defense where it has its own, or else of the defense."""
        own, mean = _own_surrogates(self.inner, defended), f"the mean of {self.draws} draws"
        found: dict[str, nn.Module] = {f"{mean}, {name}": Mean(module, self.draws) for name, module in own.items()}
        return found or super().surrogates(defended)

    @override
    def logits(self, model: nn.Module, x: Pixels) -> Logits:
        return self.inner.logits(model, x)

    @override
    def evaluations(self, model: nn.Module) -> int:
        return self.inner.evaluations(model)


class _Transformed(nn.Module):
    """A module after a transform."""

    def __init__(self, defense: Transformed, module: nn.Module) -> None:
        super().__init__()
        self.defense, self.module = defense, module

    def forward(self, x: Pixels) -> Logits:
        return self.module(self.defense.transformed(x))


def _own_surrogates(inner: Defense, defended: Defended) -> dict[str, nn.Module]:
    """What an attack climbs of an inner defense of a model, none where that is no more than of any defense."""
    alone = Defended(defended.deq, inner)
    modules = inner.surrogates(alone)
    return {} if modules.keys() == Defense.surrogates(inner, alone).keys() else modules
