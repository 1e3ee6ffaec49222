"""Proportions, differences of them on the same samples, and how far they can be trusted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Bool, Float, Real

_FLIPS = 2**14


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


def least_proportion(successes: int, trials: int, risk: float) -> float:
    """A bound that a proportion falls below with at most a given probability (one-sided, Clopper and Pearson).

    Args:
        successes: how many trials succeeded.
        trials: how many there were, at least 1.
        risk: that probability.

    Source: Clopper and Pearson, "The use of confidence or fiducial limits", Biometrika 1934.
    """
    from scipy.stats import binomtest

    test = binomtest(successes, trials, alternative="greater")
    return float(test.proportion_ci(1 - risk, method="exact").low)


def wilson_intervals(outcomes: np.ndarray) -> np.ndarray:
    """The Wilson 95 % intervals of boolean outcomes (..., n) over their last axis: (..., 2)."""
    counts = outcomes.sum(axis=-1)
    ends = [wilson_interval(int(count), outcomes.shape[-1]) for count in counts.ravel()]
    return np.asarray(ends).reshape(*counts.shape, 2)


@dataclass(frozen=True)
class Effect:
    """The mean of paired differences, and how far it can be trusted.

    Attributes:
        mean: of all differences.
        low: the lower end of its interval.
        high: the upper end.
        p: how probable a mean so far from 0 is if every difference were as likely with the other sign.
    """

    mean: float
    low: float
    high: float
    p: float


def paired_test(
    first: Bool[np.ndarray, "samples"], second: Bool[np.ndarray, "samples"], confidence: float = 0.95
) -> Effect:
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
    return Effect((gained - lost) / n, max(up - down - half, -1.0), min(up - down + half, 1.0), p)


def paired_effect(differences: Float[np.ndarray, "seeds images"]) -> Effect:
    """The mean difference on the same images over several trainings, with its 95 % interval and p-value.

    The interval counts seeds and images as crossed random effects, with Satterthwaite's degrees of freedom. The test
    flips the signs of images, of which the differences under all seeds make one cluster; for one seed and outcomes that
    are right or wrong it is McNemar's. It says nothing of other seeds; the interval does.

    Args:
        differences: of the same images under every seed.

    Returns:
        The effect; its interval is nan where all differences are equal, since they do not show how far others vary.

    Source: Judd, Westfall and Kenny, "Treating stimuli as a random factor in social psychology", JPSP 2012.
    """
    from scipy.stats import t

    mean = float(differences.mean())
    variance, freedom = _crossed_variance(differences)
    reach = float(t.ppf(0.975, freedom)) * math.sqrt(variance)
    return Effect(mean, mean - reach, mean + reach, _sign_flip(differences.mean(axis=0)))


def _crossed_variance(differences: Float[np.ndarray, "seeds images"]) -> tuple[float, float]:
    """The variance of the mean, and its degrees of freedom."""
    seeds, images = differences.shape
    mean, by_seed, by_image = differences.mean(), differences.mean(axis=1), differences.mean(axis=0)
    rest = differences - by_seed[:, None] - by_image + mean
    freedoms = np.maximum([seeds - 1, images - 1, (seeds - 1) * (images - 1)], 1)
    sums = [images * ((by_seed - mean) ** 2).sum(), seeds * ((by_image - mean) ** 2).sum(), (rest**2).sum()]
    squares = np.array(sums) / freedoms
    total = max(squares[0] + squares[1] - squares[2], squares[0], squares[1])
    if np.ptp(differences) == 0 or not total > 0:
        return math.nan, 1.0
    return float(total / differences.size), float(1 / ((squares / total) ** 2 / freedoms).sum())


def _sign_flip(values: Float[np.ndarray, "images"]) -> float:
    """The two-sided p-value of the mean if each value were as likely with the other sign; 1 where it has no mean."""
    values = values[values != 0]
    if not len(values) or not np.isfinite(values.sum()):
        return 1.0
    every, generator = 2 ** len(values) <= _FLIPS, np.random.default_rng(0)
    count = 2 ** len(values) if every else _FLIPS
    extreme = 0
    for few in np.array_split(np.arange(count), max(1, count * len(values) // 2**22)):
        bits = few[:, None] >> np.arange(len(values)) if every else generator.integers(0, 2, (len(few), len(values)))
        sums = abs((2.0 * (bits & 1) - 1.0) @ values)
        extreme += int((sums >= abs(values.sum()) * (1 - 1e-9)).sum())
    return extreme / count if every else (extreme + 1) / (count + 1)


def holm(ps: Sequence[float]) -> tuple[float, ...]:
    """The p-values corrected for their number.

    Source: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 1979.
    """
    order = np.argsort(ps, kind="stable")
    corrected = np.empty(len(ps))
    corrected[order] = np.minimum(np.maximum.accumulate(np.asarray(ps)[order] * np.arange(len(ps), 0, -1)), 1.0)
    return tuple(corrected.tolist())


def weakest(candidates: Real[np.ndarray, "candidates samples"] | Bool[np.ndarray, "candidates samples"]) -> np.ndarray:
    """The values of the candidate with the least mean, chosen for each half of the samples on the other half.

    A choice on the same samples would favour what was chosen.

    Args:
        candidates: their values.

    Returns:
        (samples,): every other sample from one choice, the rest from the other.
    """
    found = np.empty(candidates.shape[1])
    for half in range(2):
        chosen = candidates[:, 1 - half :: 2].sum(axis=1).argmin()
        found[half::2] = candidates[chosen, half::2]
    return found
