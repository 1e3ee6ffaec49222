"""Wilson's interval of a proportion, against its closed form."""

from math import sqrt
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustdeq.base.statistics import wilson_intervals
from robustdeq.evaluation import wilson_interval


def wilson(successes: int, trials: int, confidence: float) -> tuple[float, float]:
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p = successes / trials
    center = (p + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * sqrt(p * (1 - p) / trials + z**2 / (4 * trials**2))
    return center - half, center + half


@given(st.integers(1, 10_000), st.floats(0, 1), st.floats(0.5, 0.999))
def test_interval_is_wilsons(trials: int, share: float, confidence: float) -> None:
    successes = round(share * trials)
    expected = wilson(successes, trials, confidence)
    assert wilson_interval(successes, trials, confidence) == pytest.approx(expected, abs=1e-9)


@given(st.integers(1, 500), st.floats(0, 1))
def test_interval_lies_in_the_unit_interval_around_the_proportion(trials: int, share: float) -> None:
    successes = round(share * trials)
    low, high = wilson_interval(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1
    assert low < high


def test_intervals_are_those_of_the_last_axis() -> None:
    outcomes = np.arange(24).reshape(2, 3, 4) % 5 == 0
    intervals = wilson_intervals(outcomes)
    assert intervals.shape == (2, 3, 2)
    for i in range(2):
        for j in range(3):
            assert intervals[i, j].tolist() == pytest.approx(wilson(int(outcomes[i, j].sum()), 4, 0.95), abs=1e-9)
