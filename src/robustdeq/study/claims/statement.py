"""A claim of the paper, and the contrast per image that decides it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, Float

from robustdeq.base.statistics import weakest
from robustdeq.study.configurations import Configuration
from robustdeq.study.experiment import Experiment
from robustdeq.study.study import Study, Trained

PGD = "PGD-10"
"""The paper's name for its attack, by the steps that it takes there."""
POINTS = "points"
WITHIN = "points inside the bound"
Samples = Float[np.ndarray, "samples"]
Outcomes = Bool[np.ndarray, "candidates samples"]
Found = TypeVar("Found")


@dataclass(frozen=True, eq=False)
class Seed:
    """The models of one seed, and what was measured of them; each is made once.

    Args:
        study: where they are trained and measured.
        seed: added to that of the recipes.
        kept: what was made.
    """

    study: Study
    seed: int
    kept: dict[Any, Any] = field(default_factory=dict)

    def of(
        self,
        measure: Callable[[Study, Trained, str], Found],
        configuration: Configuration,
        size: str | None = None,
    ) -> Found:
        """What a measurement finds of the model that was trained in some way, in the first size or in another."""
        model = (configuration, size or self.study.size)
        if model not in self.kept:
            self.kept[model] = self.study.trained(*model, self.seed)
        if (measure, *model) not in self.kept:
            title = f"claims, {configuration.name}, seed {self.seed}"
            self.kept[measure, *model] = measure(self.study, self.kept[model], title)
        return self.kept[measure, *model]

    def once(self, measure: Callable[[Study, int], Found]) -> Found:
        """What a measurement finds that makes its own models for this seed."""
        if measure not in self.kept:
            self.kept[measure] = measure(self.study, self.seed)
        return self.kept[measure]


@dataclass(frozen=True)
class Statement:
    """A claim that a test can decide.

    Args:
        title: short, and different from all others.
        section: where the paper makes it.
        shown: the tables and figures that show it.
        sentence: what it says.
        configurations: the ways of training whose models it is about.
        contrast: for one seed, a number per image whose mean is positive where the claim holds.
        unit: of this number.
        sizes: how many sizes of the DEQ it needs.
    """

    title: str
    section: str
    shown: tuple[Experiment, ...]
    sentence: str
    configurations: tuple[Configuration, ...]
    contrast: Callable[[Seed], Samples]
    unit: str = POINTS
    sizes: int = 1

    def put_to(self, study: Study) -> Statement:
        """The claim as a study tests it: of an attack with the steps that are taken there."""
        title, sentence = (text.replace(PGD, f"PGD-{study.attack.steps}") for text in (self.title, self.sentence))
        return replace(self, title=title, sentence=sentence)

    @property
    def source(self) -> str:
        """Where the paper makes it and shows it."""
        return ", ".join(filter(None, (self.section, *(experiment.source for experiment in self.shown))))


def points(more: np.ndarray | float, less: np.ndarray | float) -> Samples:
    """By how many points of accuracy the first exceeds the second."""
    return 100.0 * (np.asarray(more, float) - np.asarray(less, float))


def mildest(candidates: Outcomes | Float[np.ndarray, "candidates samples"]) -> Samples:
    """The outcomes under the candidate that hurts least, chosen on other images."""
    return -weakest(-candidates.astype(float))


def robustness(grid: Bool[np.ndarray, "rows columns samples"]) -> list[Samples]:
    """What each defense of a grid leaves under its strongest column; the first column is clean."""
    return [weakest(row[1:]) for row in grid]


def best_defense(grid: Bool[np.ndarray, "rows columns samples"], index: int) -> Samples:
    """By how many points one defense is more robust than the best of the others, each under its strongest column."""
    left = np.stack(robustness(grid))
    return points(left[index], mildest(np.delete(left, index, axis=0)))


def hurts_most(candidates: Outcomes, index: int) -> Samples:
    """By how many points one candidate hurts more than the strongest of the others."""
    return points(weakest(np.delete(candidates, index, axis=0)), candidates[index])
