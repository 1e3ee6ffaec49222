"""Proportions and how far they can be trusted."""

from __future__ import annotations

import numpy as np


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
