"""Proportions, differences of them on the same samples, and how far they can be trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Bool


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of a proportion.

    Args:
        successes: how many trials succeeded.
        trials: how many there were, at least 1.
        confidence: the coverage.

    Returns:
        Its lower and upper end, in [0, 1].

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927.
    """
    from scipy.stats import binomtest  # takes longer to import than all of the package

    interval = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def wilson_intervals(outcomes: np.ndarray, confidence: float = 0.95) -> np.ndarray:
    """The Wilson intervals of boolean outcomes (..., n) over their last axis: (..., 2)."""
    counts = outcomes.sum(axis=-1)
    ends = [wilson_interval(int(count), outcomes.shape[-1], confidence) for count in counts.ravel()]
    return np.asarray(ends).reshape(*counts.shape, 2)


@dataclass(frozen=True)
class PairedTest:
    """How two proportions differ on the same samples.

    Attributes:
        difference: the second less the first.
        low: the lower end of its interval.
        high: the upper end.
        p: how probable so uneven a split of the samples that differ is, in either direction, if each were as likely to
            go one way as the other.
    """

    difference: float
    low: float
    high: float
    p: float


def paired_test(
    first: Bool[np.ndarray, "samples"], second: Bool[np.ndarray, "samples"], confidence: float = 0.95
) -> PairedTest:
    """McNemar's exact test, and the adjusted Wald interval of the difference.

    Args:
        first: outcomes of the samples, at least one.
        second: other outcomes of the same samples.
        confidence: the coverage.

    Source: McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
    Psychometrika 1947; Bonett and Price, "Adjusted Wald confidence interval for a difference of binomial proportions
    based on paired data", Journal of Educational and Behavioral Statistics 2012.
    """
    from scipy.stats import binomtest

    lost, gained, n = int((first & ~second).sum()), int((second & ~first).sum()), len(first)
    p = float(binomtest(gained, lost + gained).pvalue) if lost + gained else 1.0
    down, up = (lost + 1) / (n + 2), (gained + 1) / (n + 2)
    half = NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt((down + up - (up - down) ** 2) / (n + 2))
    return PairedTest((gained - lost) / n, max(up - down - half, -1.0), min(up - down + half, 1.0), p)
