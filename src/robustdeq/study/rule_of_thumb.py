"""What one number foretells of another: a rank correlation, and the threshold above which the other is large.

The threshold is the one of highest balanced accuracy, the mean of the shares that are right among the large and among
the others. How well such a rule does on what it has not seen is asked by leaving out each kind of sample in turn, since
samples of one kind are much alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

Numbers = Float[np.ndarray, "*drawn n"]
Marks = Bool[np.ndarray, "*thresholds n"]


@dataclass(frozen=True)
class Threshold:
    """The rule "large where x is above".

    Attributes:
        at: the threshold, halfway between two neighbouring x.
        above: which samples are above it.
        accuracy: its balanced accuracy where it was chosen.
        left_out: the balanced accuracy of what the rule of all other kinds says of each.
    """

    at: float
    above: Bool[np.ndarray, "n"]
    accuracy: float
    left_out: float


def threshold(x: Float[np.ndarray, "n"], large: Bool[np.ndarray, "n"], kinds: Sequence[object]) -> Threshold | None:
    """The threshold that tells the large from the others best.

    Args:
        x: what is known of each sample.
        large: whether what is to be foretold is large there.
        kinds: which kind each sample is of.

    Returns:
        The rule; None where, without some kind or with all, no sample or every sample is large, or x has one value.
    """
    left_out = np.zeros(len(x), bool)
    parts = [np.array([kind == left for kind in kinds]) for left in dict.fromkeys(kinds)]
    if not (_tells(x, large) and all(_tells(x[~part], large[~part]) for part in parts)):
        return None
    for part in parts:
        left_out[part] = x[part] > _best(x[~part], large[~part])
    at = _best(x, large)
    return Threshold(at, x > at, float(balanced_accuracy(x > at, large)), float(balanced_accuracy(left_out, large)))


def _tells(x: Float[np.ndarray, "n"], large: Bool[np.ndarray, "n"]) -> bool:
    return len(np.unique(x)) > 1 and bool(large.any()) and not large.all()


def _best(x: Float[np.ndarray, "n"], large: Bool[np.ndarray, "n"]) -> float:
    """The threshold of highest balanced accuracy, the middle one where several are equal."""
    ordered = np.unique(x)
    between = (ordered[1:] + ordered[:-1]) / 2
    accuracy = balanced_accuracy(x > between[:, None], large)
    (best,) = np.nonzero(accuracy == accuracy.max())
    return float(between[best[len(best) // 2]])


def balanced_accuracy(said: Marks, large: Bool[np.ndarray, "n"]) -> Float[np.ndarray, "*thresholds"]:
    """The mean of the shares that are said to be large among the large, and not to be among the others."""
    return (said[..., large].mean(axis=-1) + (~said)[..., ~large].mean(axis=-1)) / 2


def rank_correlation(
    x: Float[np.ndarray, "n"], y: Float[np.ndarray, "n"], kinds: Sequence[object], rounds: int = 2000
) -> tuple[float, float, float]:
    """Spearman's rank correlation, with the ends of its bootstrap 95 % interval; nan where one side is constant.

    The interval is that of the percentiles over whole kinds drawn with replacement (Efron and Tibshirani, 1993, §13.3;
    Davison and Hinkley, 1997, §3.8).

    Args:
        x: one number of each sample.
        y: the other.
        kinds: which kind each sample is of.
        rounds: how often kinds are drawn.
    """
    names = [*dict.fromkeys(kinds)]
    members = [np.array([i for i, kind in enumerate(kinds) if kind == name]) for name in names]
    draws = np.random.default_rng(0).integers(len(names), size=(rounds, len(names)))
    drawn = [np.concatenate([members[kind] for kind in draw]) for draw in draws]
    (value,) = _spearman(x[None], y[None])
    found = np.array([_spearman(x[draw][None], y[draw][None])[0] for draw in drawn])
    known = found[np.isfinite(found)]
    low, high = np.percentile(known, [2.5, 97.5]) if len(known) else (np.nan, np.nan)
    return float(value), float(low), float(high)


def _spearman(x: Float[np.ndarray, "drawn n"], y: Float[np.ndarray, "drawn n"]) -> Float[np.ndarray, "drawn"]:
    """The correlation of the ranks, for each row."""
    from scipy.stats import rankdata  # takes longer to import than all of the package

    a, b = (ranks - ranks.mean(axis=1, keepdims=True) for ranks in (rankdata(x, axis=1), rankdata(y, axis=1)))
    lengths = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return np.divide((a * b).sum(axis=1), lengths, out=np.full(len(a), np.nan), where=lengths > 0)
