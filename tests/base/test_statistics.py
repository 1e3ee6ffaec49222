"""Intervals and tests, against closed forms, scipy's, and by counting all cases."""

from itertools import product
from math import comb, isnan, sqrt
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from robustdeq.base.statistics import holm, paired_effect, paired_test, weakest, wilson_intervals
from robustdeq.evaluation import wilson_interval
from robustdeq.study.finding import Verdict, verdict


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


def pairs(both: int, lost: int, gained: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    first = np.repeat([True, True, False, False], [both, lost, gained, neither])
    second = np.repeat([True, False, True, False], [both, lost, gained, neither])
    return first, second


@given(st.integers(0, 8), st.integers(0, 5), st.integers(0, 5), st.integers(1, 8))
def test_p_is_the_share_of_all_exchanges_that_are_as_uneven(both: int, lost: int, gained: int, neither: int) -> None:
    """McNemar's null hypothesis: the two outcomes of a sample may be exchanged."""
    found = paired_test(*pairs(both, lost, gained, neither))
    exchanges = [abs(sum(signs)) for signs in product((-1, 1), repeat=lost + gained)]
    uneven = sum(total >= abs(gained - lost) for total in exchanges) / len(exchanges)
    assert found.p == pytest.approx(uneven)
    assert found.mean == pytest.approx((gained - lost) / (both + lost + gained + neither))
    assert -1 <= found.low <= found.mean <= found.high <= 1
    assert found.low < found.high


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30), st.integers(1, 30), st.floats(0.5, 0.99))
def test_exchanging_the_outcomes_mirrors_the_test(
    both: int, lost: int, gained: int, neither: int, confidence: float
) -> None:
    first, second = pairs(both, lost, gained, neither)
    there, back = paired_test(first, second, confidence), paired_test(second, first, confidence)
    assert there.p == back.p
    np.testing.assert_allclose((there.mean, there.low, there.high), (-back.mean, -back.high, -back.low))


@pytest.mark.parametrize(("down", "up"), [(0.02, 0.02), (0.1, 0.2), (0.05, 0.4), (0.3, 0.3)])
def test_interval_of_a_paired_difference_covers_it(down: float, up: float) -> None:
    """Over all counts that 30 samples can give."""
    n, covered = 30, 0.0
    for lost in range(n + 1):
        for gained in range(n + 1 - lost):
            rest = n - lost - gained
            chance = comb(n, lost) * comb(n - lost, gained) * down**lost * up**gained * (1 - down - up) ** rest
            found = paired_test(*pairs(rest, lost, gained, 0))
            covered += chance * (found.low <= up - down <= found.high)
    assert covered > 0.93


signs = st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=2, max_size=12)


@given(signs)
def test_the_sign_flip_test_of_outcomes_under_one_seed_is_mcnemars(differences: list[float]) -> None:
    gained, lost = differences.count(1.0), differences.count(-1.0)
    expected = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert paired_effect(np.array([differences])).p == pytest.approx(expected)


@pytest.mark.parametrize("value", [12.0, 0.0, -100.0, 0.1])
@pytest.mark.parametrize("seeds", [1, 3])
def test_equal_differences_do_not_show_how_far_others_vary(value: float, seeds: int) -> None:
    """None of 20 images right, three times: as many as one in six may be."""
    effect = paired_effect(np.full((seeds, 20), value))
    assert effect.mean == pytest.approx(value)
    assert isnan(effect.low)
    assert isnan(effect.high)
    assert verdict(effect.low, effect.high, effect.p, 3) == Verdict.NOT_SEEN


def test_the_sign_flip_test_of_many_images_is_near_mcnemars() -> None:
    differences = np.repeat([1.0, -1.0, 0.0], [40, 20, 100])[None]
    assert paired_effect(differences).p == pytest.approx(stats.binomtest(40, 60).pvalue, abs=0.004)


@pytest.mark.parametrize("images", [5, 400])
@pytest.mark.parametrize("lost", [np.nan, np.inf])
def test_what_has_no_mean_shows_nothing(lost: float, images: int) -> None:
    differences = np.ones((3, images))
    differences[0, 0] = lost
    assert paired_effect(differences).p == 1.0


@given(arrays(float, (1, 9), elements=st.floats(-5, 5)))
def test_the_interval_for_one_seed_is_that_of_the_paired_t_test(differences: np.ndarray) -> None:
    assume(np.ptp(differences) > 1e-6)
    effect = paired_effect(differences)
    error = differences.std(ddof=1) / 3
    reach = stats.t.ppf(0.975, 8) * error
    assert (effect.mean, effect.high - effect.mean) == pytest.approx((differences.mean(), reach), abs=1e-9)


@given(arrays(float, 5, elements=st.floats(-5, 5)))
def test_the_interval_of_seeds_that_treat_all_images_alike_is_that_of_the_t_test_over_seeds(seeds: np.ndarray) -> None:
    assume(np.ptp(seeds) > 1e-6)
    effect = paired_effect(np.repeat(seeds[:, None], 7, axis=1))
    assert effect.high - effect.mean == pytest.approx(stats.t.ppf(0.975, 4) * seeds.std(ddof=1) / sqrt(5), abs=1e-6)


@pytest.mark.parametrize(("by_seed", "by_image"), [(1.0, 0.2), (0.2, 1.0), (0.0, 0.0), (0.5, 0.5)])
def test_the_interval_covers_the_mean_of_crossed_random_effects(by_seed: float, by_image: float) -> None:
    rng, rounds = np.random.default_rng(0), 300
    covered = 0
    for _ in range(rounds):
        drawn = by_seed * rng.normal(size=(3, 1)) + by_image * rng.normal(size=(1, 40)) + rng.normal(size=(3, 40))
        effect = paired_effect(drawn)
        covered += effect.low <= 0 <= effect.high
    assert covered >= 0.91 * rounds


@given(arrays(float, (3, 6), elements=st.floats(-5, 5)))
def test_the_opposite_differences_have_the_opposite_effect(differences: np.ndarray) -> None:
    effect, opposite = paired_effect(differences), paired_effect(-differences)
    assert (-opposite.mean, -opposite.high, -opposite.low, opposite.p) == pytest.approx(
        (effect.mean, effect.low, effect.high, effect.p), nan_ok=True
    )


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.floats(0.001, 0.999))
def test_holm_rejects_what_his_step_down_procedure_rejects(ps: list[float], level: float) -> None:
    rejected, left = set(), sorted(range(len(ps)), key=ps.__getitem__)
    while left and ps[left[0]] * len(left) <= level:
        rejected.add(left.pop(0))
    assert {i for i, p in enumerate(holm(ps)) if p <= level} == rejected


def test_the_weakest_is_chosen_on_the_other_half() -> None:
    candidates = np.array([[0, 1, 0, 1, 0, 1], [1, 0, 1, 0, 1, 0], [2, 2, 2, 2, 2, 2]], float)
    assert weakest(candidates).tolist() == [1.0] * 6
    assert weakest(np.array([[3.0, 3.0], [1.0, 2.0]])).tolist() == [1.0, 2.0]
    assert weakest(np.array([[3.0]])).tolist() == [3.0]
