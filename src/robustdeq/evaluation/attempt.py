"""Attempts: one attack, climbing one gradient, on one batch; and what became of every sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from robustdeq.attacks import Attack
from robustdeq.attacks.losses import correct
from robustdeq.base.progress import Report
from robustdeq.deq.gradients import Gradient
from robustdeq.evaluation.subject import Subject


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Attempt:
    """One way to make adversaries.

    Args:
        attack: what climbs.
        gradient: what is climbed; None for the true gradient of the row it is `against`.
        against: the row that decides, while the attack runs, what has succeeded; None for the surrogate itself.
        survivors: attack only the images that have withstood everything so far in the row it is against. What has
            fallen stays fallen, in every row, so that the outcome includes all that went before.
        source: an explicit network whose adversaries are transferred, by name; None for the model itself.
    """

    attack: Attack
    gradient: Gradient | None = None
    against: str | None = None
    survivors: bool = False
    source: str | None = None

    @property
    def key(self) -> str:
        """What tells it apart from all others, in words."""
        parts = [repr(self.attack)]
        parts += [f"source={self.source}"] * (self.source is not None)
        parts += [repr(self.gradient)] * (self.gradient is not None)
        parts += [f"against {self.against}"] * (self.against is not None)
        parts += ["on survivors"] * self.survivors
        return " | ".join(parts)

    def evaluations(self, subject: Subject) -> float:
        """Its cost per image in evaluations of f, at most: what a progress bar needs to know."""
        step = 3 * subject.passes() if self.gradient is None else self.gradient.evaluations(_deq(subject))
        return self.attack.cost.price(step, subject.passes()) + subject.passes()

    def seeded(self, batch: int) -> Any:
        """The attack with the seed of a batch."""
        return self.attack.seeded(batch)

    def adversaries(
        self,
        subject: Subject,
        sources: Mapping[str, nn.Module],
        batch: int,
        x: Float[Tensor, "batch *image"],
        y: Int[Tensor, "batch"],
        standing: Bool[np.ndarray, "rows batch"],
        report: Report | None = None,
    ) -> Float[Tensor, "batch *image"]:
        """Make adversaries for one batch.

        Args:
            subject: what is attacked.
            sources: the explicit networks by name.
            batch: the number of the batch, which the seed is made of.
            x: its images.
            y: their labels.
            standing: which images have withstood everything so far, per row.
            report: told how far an attack of several parts is.
        """
        target = None if self.against is None else subject.reader(self.against)
        if self.source is not None:
            surrogate = sources[self.source]
        elif self.gradient is not None:
            surrogate = subject.surrogate(self.gradient)
        else:
            surrogate, target = target or subject.model, None
        chosen = np.ones(len(x), dtype=bool)
        if self.survivors:
            row = subject.searched if self.against is None else self.against
            chosen = standing[subject.rows.index(row)]
        adversaries = x.clone()
        if chosen.any():
            here = torch.from_numpy(chosen).to(x.device)
            adversaries[here] = self.seeded(batch)(surrogate, x[here], y[here], target, report)
        return adversaries

    def outcome(
        self,
        subject: Subject,
        x: Float[Tensor, "batch *image"],
        adversaries: Float[Tensor, "batch *image"],
        y: Int[Tensor, "batch"],
        standing: Bool[np.ndarray, "rows batch"],
    ) -> Outcome:
        """Judge the adversaries of a batch x in every row; raise `InputError` where they leave the threat model."""
        self.attack.threat.check_adversaries(adversaries, x)
        judged = judge(subject, adversaries, y)
        moved = (adversaries != x).flatten(1).any(dim=1).cpu().numpy()
        return Outcome(judged.standing & standing if self.survivors else judged.standing, judged.errors, moved)


def judge(subject: Subject, x: Float[Tensor, "batch *image"], y: Int[Tensor, "batch"]) -> Outcome:
    """What every row makes of images x with labels y."""
    logits = subject.logits(x)
    standing = torch.stack([correct(row, y) for row in logits]).cpu().numpy()
    errors = torch.stack([~row.isfinite().all(dim=1) for row in logits]).cpu().numpy()
    return Outcome(standing, errors, np.zeros(len(x), dtype=bool))


def _deq(subject: Subject) -> Any:
    return subject.model
