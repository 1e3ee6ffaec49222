"""What a test says of one claim: the effect with its interval, its p-value, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from robustdeq.base.plain import made_of

LEVEL = 0.05
FEWEST_SEEDS = 3
_NUMBERS = ("effect", "low", "high", "p")


class Verdict(StrEnum):
    """What became of a claim."""

    HOLDS = "holds"
    REVERSED = "reversed"
    NOT_SEEN = "not seen"
    UNDECIDED = "undecided: too few seeds"


def verdict(low: float, high: float, p: float, seeds: int) -> Verdict:
    """The verdict on an effect that is positive where the claim holds.

    The p-value says whether these trainings show it on other images, the interval whether other trainings would.

    Args:
        low: the lower end of the interval of the effect.
        high: its upper end.
        p: corrected for the number of claims.
        seeds: how many trainings of each kind there were.
    """
    if seeds < FEWEST_SEEDS:
        return Verdict.UNDECIDED
    if p < LEVEL and low > 0:
        return Verdict.HOLDS
    if p < LEVEL and high < 0:
        return Verdict.REVERSED
    return Verdict.NOT_SEEN


@dataclass(frozen=True)
class Finding:
    """A claim, and what became of it.

    Args:
        title: of the claim, short.
        claim: in a sentence.
        source: where the paper makes it.
        effect: the mean over seeds and images; positive where the claim holds.
        low: the lower end of its interval.
        high: the upper end.
        unit: of these three.
        p: corrected for the number of claims.
        seeds: how many trainings of each kind there were.
        images: how many images, or, of what is timed, how many rounds.
        scale: at which they were trained.
        shown: the names of the experiments that show it.
        code: the fingerprint of the code that measured it, seed by seed.
    """

    title: str
    claim: str
    source: str
    effect: float
    low: float
    high: float
    unit: str
    p: float
    seeds: int
    images: int
    scale: str
    shown: tuple[str, ...] = ()
    code: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """What became of the claim."""
        return verdict(self.low, self.high, self.p, self.seeds)

    def plain(self) -> dict[str, Any]:
        """As plain values, with null where a number is not finite."""
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        return {"claim": self.claim, "verdict": str(self.verdict)} | vars(self) | finite

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Finding:
        """The finding that `plain` wrote down; raises `KeyError` or `TypeError` where it is none."""
        settings = {name: value for name, value in values.items() if name != "verdict"}
        numbers = {name: math.nan if settings[name] is None else float(settings[name]) for name in _NUMBERS}
        return made_of(cls, settings, **numbers)
