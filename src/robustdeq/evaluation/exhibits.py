"""A few images to look at: clean, attacked, and what the model makes of them state by state as its solver runs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from torch import Tensor

from robustdeq.attacks import PGD
from robustdeq.attacks.losses import cross_entropy
from robustdeq.base.errors import InputError
from robustdeq.base.plain import from_json
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
        estimates: the names of the estimated gradients.
        cosines: the cosine of each with the gradient through the solver, on the images as they are.
        attack: what made the adversaries, in words.
    """

    images: Float[Tensor, "n channels height width"]
    adversaries: Float[Tensor, "n channels height width"]
    labels: Int[Tensor, "n"]
    classes: tuple[str, ...]
    clean: Float[Tensor, "n states classes"]
    attacked: Float[Tensor, "n states classes"]
    estimates: tuple[str, ...]
    cosines: Float[Tensor, "estimates states n"]
    attack: str

    def save(self, path: Path) -> None:
        """Write them as safetensors, whole or not at all."""
        tensors = {name: getattr(self, name) for name in _TENSORS}
        words = {name: json.dumps(getattr(self, name)) for name in ("classes", "estimates", "attack")}
        write_tensors(path, tensors, words)

    @classmethod
    def read(cls, path: Path) -> Exhibits:
        """Read what `save` wrote.

        Raises:
            InputError: the file cannot be read, or holds something else.
        """
        try:
            kept, said = read_sealed(path)
            words = {name: from_json(text) for name, text in said.items()}
            tensors = {name: kept[name] for name in _TENSORS}
            classes, estimates = (tuple(words[name]) for name in ("classes", "estimates"))
            return cls(**tensors, classes=classes, estimates=estimates, attack=words["attack"])
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} holds no exhibits; evaluate the model again with --overwrite.") from error


_TENSORS = ("images", "adversaries", "labels", "clean", "attacked", "cosines")


def exhibits(
    deq: DEQ,
    x: Float[Tensor, "n channels height width"],
    y: Int[Tensor, "n"],
    classes: tuple[str, ...],
    attack: PGD,
    estimators: Estimators,
) -> Exhibits:
    """Attack a few images x with labels y through the solver, and follow them along the trajectory."""
    loss = partial(cross_entropy, y=y)
    with evaluating(deq):
        adversaries = attack(Surrogate(deq, ThroughSolver(FinalState())), x, y)
        clean, attacked = (state_logits(deq, images)[0].softmax(dim=2).transpose(0, 1) for images in (x, adversaries))
        true = true_gradients(deq, x, loss)
        estimated = estimated_gradients(deq, x, loss, estimators)
        cosines = torch.stack([cosine(gradient, true) for gradient in estimated.values()])
    return Exhibits(
        images=x,
        adversaries=adversaries,
        labels=y,
        classes=classes,
        clean=clean,
        attacked=attacked,
        estimates=tuple(estimated),
        cosines=cosines,
        attack=f"PGD of {attack.steps} steps of {attack.step_size:.3g}, ε = {attack.eps:.3g} ({attack.norm}), "
        "through the solver, against the final state",
    )
