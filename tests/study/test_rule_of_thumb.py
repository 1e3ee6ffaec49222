"""A rule of thumb is the best there is, judged on what it has not seen; ranks decide, not values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import balanced_accuracy_score

from robustdeq.study.rule_of_thumb import balanced_accuracy, rank_correlation, threshold

SAMPLES = st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=6, max_size=20).map(
    lambda pairs: (np.array([x for x, _ in pairs], float), np.array([large for _, large in pairs]))
)


@settings(max_examples=50, deadline=None)
@given(SAMPLES)
def test_no_other_threshold_is_better(samples: tuple[np.ndarray, np.ndarray]) -> None:
    x, large = samples
    rule = threshold(x, large, range(len(x)))
    if rule is None:
        assert min(large.sum(), (~large).sum()) < 2 or any(len(set(np.delete(x, i))) < 2 for i in range(len(x)))
        return
    assert rule.accuracy == pytest.approx(balanced_accuracy_score(large, x > rule.at))
    assert all(rule.accuracy >= balanced_accuracy(x > at, large) - 1e-12 for at in np.arange(x.min() + 0.5, x.max()))
    np.testing.assert_array_equal(rule.above, x > rule.at)
    assert rule.at not in x


def test_what_is_left_out_is_judged_by_a_rule_made_without_it() -> None:
    x = np.array([1.0, 2.0, 3.0, 4.0, 10.0, 11.0, 12.0, 13.0])
    separable = threshold(x, x > 5, range(8))
    assert separable is not None
    assert (separable.at, separable.accuracy, separable.left_out) == (7.0, 1.0, 1.0)
    noise = threshold(np.arange(8.0), np.arange(8) % 2 == 0, range(8))
    assert noise is not None
    assert noise.left_out < noise.accuracy
    kinds = np.arange(8) % 2
    shifted = np.where(kinds == 1, np.array([0, 1, 2, 3, 4, 5, 6, 7.0]), np.array([10, 11, 12, 13, 14, 15, 16, 17.0]))
    within = threshold(shifted, np.arange(8) > 3, kinds)
    assert within is not None
    assert within.left_out == 0.5


def test_a_kind_without_which_nothing_is_large_makes_no_rule() -> None:
    x, large = np.arange(8.0), np.arange(8) > 3
    assert threshold(x, large, np.arange(8) > 3) is None


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=4, max_size=20))
def test_correlation_is_that_of_the_ranks(pairs: list[tuple[int, int]]) -> None:
    x, y = np.array(pairs, float).T
    value, low, high = rank_correlation(x, y, range(len(x)), rounds=200)
    if len(set(x)) < 2 or len(set(y)) < 2:
        assert np.isnan([value, low, high]).all()
        return
    assert value == pytest.approx(spearmanr(x, y).statistic)
    assert -1 - 1e-9 <= low <= high <= 1 + 1e-9
    one = rank_correlation(x, y, [0] * len(x), rounds=9)
    assert one == pytest.approx((value, value, value))
    np.testing.assert_allclose(rank_correlation(np.exp(x), y, range(len(x)), rounds=200), (value, low, high))
