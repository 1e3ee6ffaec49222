"""A few images to look at: clean, attacked, and what the model makes of them state by state as its solver runs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from torch import Tensor

from robustdeq.attacks import PGD
from robustdeq.attacks.losses import cross_entropy
from robustdeq.base.errors import InputError
from robustdeq.base.plain import from_json, made_of
from robustdeq.base.provenance import describe
from robustdeq.base.tensors import read_sealed, write_tensors
from robustdeq.deq import DEQ
from robustdeq.deq.defenses import FinalState, state_logits
from robustdeq.deq.gradients import Surrogate, ThroughSolver
from robustdeq.deq.modes import evaluating
from robustdeq.evaluation.agreement import cosine, estimated_gradients, true_gradients
from robustdeq.evaluation.protocol import Estimators

FILE = "exhibits.safetensors"


@dataclass(frozen=True, eq=False)
class Exhibits:
    """A few images and their adversaries, made by PGD through the solver against the final state.

    Attributes:
        images: as they are, pixels in [0, 1].
        adversaries: the same, attacked.
        labels: the indices of their classes.
        classes: the names of the classes.
        clean: the probability of every class, read from every state z_1 … z_{N+1}.
        attacked: the same for the adversaries.
        residuals: of every state, relative, on the images as they are and on the adversaries.
        directions: the sign of the gradient of the loss through the solver, read from every state, on the images as
            they are.
        estimates: the names of the estimated gradients.
        cosines: the cosine of each with the gradient through the solver, on the images as they are.
        attack: what made the adversaries, in plain values: its class and its settings.
    """

    images: Float[Tensor, "n channels height width"]
    adversaries: Float[Tensor, "n channels height width"]
    labels: Int[Tensor, "n"]
    classes: tuple[str, ...]
    clean: Float[Tensor, "n states classes"]
    attacked: Float[Tensor, "n states classes"]
    residuals: Float[Tensor, "2 n states"]
    directions: Int[Tensor, "states n channels height width"]
    estimates: tuple[str, ...]
    cosines: Float[Tensor, "estimates states n"]
    attack: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write them as safetensors, whole or not at all."""
        tensors = {name: getattr(self, name) for name in _TENSORS}
        words = {name: json.dumps(getattr(self, name)) for name in _WORDS}
        write_tensors(path, tensors, words)

    @classmethod
    def read(cls, path: Path) -> Exhibits:
        """Read what `save` wrote.

        Raises:
            InputError: the file cannot be read, or holds something else.
        """
        try:
            kept, said = read_sealed(path)
            tensors = {name: kept[name] for name in _TENSORS}
            found = made_of(cls, {name: from_json(said[name]) for name in _WORDS}, **tensors)
            found.check()
            return found
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} holds no exhibits; evaluate the model again with --overwrite.") from error

    def check(self) -> None:
        """Raise `ValueError` unless the tensors belong together, and the labels to the classes."""
        n, pixels = len(self.images), self.images.shape
        states, classes = self.clean.shape[1], len(self.classes)
        shapes = {
            "adversaries": pixels,
            "labels": (n,),
            "clean": (n, states, classes),
            "attacked": (n, states, classes),
            "residuals": (2, n, states),
            "directions": (states, *pixels),
            "cosines": (len(self.estimates), states, n),
        }
        fits = all(getattr(self, name).shape == shape for name, shape in shapes.items())
        empty = 0 in (states, self.images.numel(), len(self.estimates))
        if not fits or empty or len(pixels) != 4 or pixels[1] not in (1, 3):
            raise ValueError("the tensors do not belong together")
        if self.labels.is_floating_point() or not all(0 <= label < classes for label in self.labels.tolist()):
            raise ValueError("a label is of no class")


_WORDS = ("classes", "estimates", "attack")
_TENSORS = ("images", "adversaries", "labels", "clean", "attacked", "residuals", "directions", "cosines")


def exhibits(
    deq: DEQ,
    x: Float[Tensor, "n channels height width"],
    y: Int[Tensor, "n"],
    classes: tuple[str, ...],
    attack: PGD,
    estimators: Estimators,
) -> Exhibits:
    """Attack a few images x with labels y through the solver, and follow them along the trajectory.

    Logits beyond the classes of the images are called by their numbers.
    """
    y = y.long()
    loss = partial(cross_entropy, y=y)
    with evaluating(deq):
        adversaries = attack(Surrogate(deq, ThroughSolver(FinalState())), x, y)
        logits, residuals = zip(*(state_logits(deq, images) for images in (x, adversaries)), strict=True)
        clean, attacked = (read.softmax(dim=2).transpose(0, 1) for read in logits)
        true = true_gradients(deq, x, loss)
        estimated = estimated_gradients(deq, x, loss, estimators)
        cosines = torch.stack([cosine(gradient, true) for gradient in estimated.values()])
    return Exhibits(
        images=x,
        adversaries=adversaries,
        labels=y,
        classes=(*classes, *map(str, range(len(classes), clean.shape[2]))),
        clean=clean,
        attacked=attacked,
        residuals=torch.stack(residuals).transpose(1, 2),
        directions=true.sign().to(torch.int8),
        estimates=tuple(estimated),
        cosines=cosines,
        attack=describe(attack),
    )
