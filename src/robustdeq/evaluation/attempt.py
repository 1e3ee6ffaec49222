"""Attempts: one attack, climbing one module, on one batch; and what became of every sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from robustdeq.attacks import Attack
from robustdeq.attacks.losses import correct
from robustdeq.base.progress import Report
from robustdeq.base.provenance import describe, digest
from robustdeq.deq import Defended, Defense
from robustdeq.deq.defenses import as_deq, defended_logits
from robustdeq.deq.gradients import Gradient, Surrogate


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of one batch under one attempt.

    Attributes:
        standing: whether each row of the table classifies each image correctly, (rows, batch).
        errors: whether its logits were not finite there, which counts as an error of the defense.
        moved: whether the attack changed the image at all, (batch,).
    """

    standing: Bool[np.ndarray, "rows batch"]
    errors: Bool[np.ndarray, "rows batch"]
    moved: Bool[np.ndarray, "batch"]


@dataclass(frozen=True, eq=False)
class Climbed:
    """A module whose gradient an attack climbs.

    Attributes:
        module: x → logits.
        label: in words, what is climbed.
        description: what tells it from all others, in plain values.
        evaluations: the cost of one gradient, in evaluations of f (of an explicit network, in forward passes).
    """

    module: nn.Module
    label: str
    description: Any
    evaluations: int


def estimated(model: nn.Module, gradient: Gradient) -> Climbed:
    """A DEQ with that gradient as its backward pass.

    Raises:
        InputError: the model is no DEQ, or lacks a state that the gradient asks for.
    """
    deq = as_deq(model)
    return Climbed(Surrogate(deq, gradient), gradient.label, describe(gradient), gradient.evaluations(deq))


def transferred(name: str, network: nn.Module) -> Climbed:
    """Another network, whose adversaries are tried on the model."""
    return Climbed(network, f"the gradient of {name}", describe(network), 1)


class Row:
    """One row of the table: a model behind one defense.

    Attributes:
        id: names it among the rows.
        defense: the defense.
        cost: of judging one image, in evaluations of f.
        judge: the module x → logits that has to be fooled.
        surrogates: what an adaptive attack climbs.
        logits_alone: the same module for an attack that asks for logits and climbs nothing.

    Args:
        id: names it among the rows.
        model: what is defended.
        defense: the defense.

    Raises:
        InputError: the defense does not fit the model.
    """

    def __init__(self, id: str, model: nn.Module, defense: Defense) -> None:
        self.id, self.defense, self.cost = id, defense, defense.evaluations(model)
        self.judge = Defended(model, defense)
        own = describe(defense)
        self.surrogates = tuple(
            Climbed(module, name, {"defense": own, "surrogate": name}, 3 * self.cost)
            for name, module in defense.surrogates(self.judge).items()
        )
        self.logits_alone = Climbed(self.judge, "nothing: it asks for logits", {"defense": own}, 0)


@dataclass(frozen=True, eq=False)
class Attempt:
    """One way to make adversaries.

    Args:
        attack: what climbs.
        climbs: what is climbed.
        against: the row that decides, while the attack runs, what has succeeded; None for what is climbed itself.
        survivors: attack only the images that have withstood everything so far in the row it is against. What has
            fallen stays fallen, in every row, so that the outcome includes all that went before.
    """

    attack: Attack
    climbs: Climbed
    against: Row | None = None
    survivors: bool = False

    @property
    def description(self) -> dict[str, Any]:
        """Everything that decides its outcome on a model and its rows, in plain values."""
        return {
            "attack": describe(self.attack),
            "climbs": self.climbs.description,
            "against": None if self.against is None else self.against.id,
            "survivors": self.survivors,
        }

    @property
    def label(self) -> str:
        """In words, what it climbs."""
        return self.climbs.label if self.attack.climbs is None else self.attack.climbs

    @cached_property
    def key(self) -> str:
        """A short name that no other attempt has."""
        return digest(self.description)

    def evaluations(self, judging: float) -> float:
        """Its cost per image in evaluations of f, at most, where judging one image costs `judging`."""
        return self.attack.cost.price(self.climbs.evaluations, judging) + judging

    def seeded(self, batch: int) -> Any:
        """The attack with the seed of a batch."""
        return self.attack.seeded(batch)

    def adversaries(
        self,
        batch: int,
        x: Float[Tensor, "batch *image"],
        y: Int[Tensor, "batch"],
        chosen: Bool[np.ndarray, "batch"],
        report: Report | None = None,
    ) -> Float[Tensor, "batch *image"]:
        """Make adversaries for one batch.

        Args:
            batch: the number of the batch, which the seed is made of.
            x: its images.
            y: their labels.
            chosen: which of them to attack; the others stay as they are.
            report: told how far an attack of several parts is.

        Raises:
            InputError: they leave the threat model.
        """
        adversaries = x.clone()
        if chosen.any():
            here = torch.from_numpy(chosen).to(x.device)
            judge = None if self.against is None else self.against.judge
            target = None if judge is self.climbs.module else judge
            adversaries[here] = self.seeded(batch)(self.climbs.module, x[here], y[here], target, report)
        self.attack.threat.check_adversaries(adversaries, x)
        return adversaries


def judge(
    model: nn.Module,
    rows: Sequence[Row],
    images: Float[Tensor, "batch *image"],
    adversaries: Float[Tensor, "batch *image"],
    y: Int[Tensor, "batch"],
) -> Outcome:
    """What every row makes of adversaries.

    Args:
        model: what is attacked.
        rows: the rows of the table.
        images: the images as they are.
        adversaries: the same, attacked.
        y: their labels.
    """
    with torch.no_grad():
        logits = defended_logits(model, adversaries, [row.defense for row in rows])
    standing = torch.stack([correct(row, y) for row in logits]).cpu().numpy()
    errors = torch.stack([~row.isfinite().all(dim=1) for row in logits]).cpu().numpy()
    return Outcome(standing, errors, (adversaries != images).flatten(1).any(dim=1).cpu().numpy())
