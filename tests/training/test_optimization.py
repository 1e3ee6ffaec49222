"""The learning rate rises linearly, then falls along a cosine to its floor."""

from typing import Any

import pytest

from robustdeq.errors import InputError
from robustdeq.training import Optimization, Schedule

HIGHEST, FLOOR = 1e-2, 1e-4


@pytest.mark.parametrize("warmup", [0.0, 0.2, 0.5])
def test_factor_peaks_after_the_warmup_and_ends_at_the_floor(warmup: float) -> None:
    optimization = Optimization(HIGHEST, FLOOR, warmup)
    assert optimization.factor(warmup) == pytest.approx(1)
    assert optimization.factor((1 + warmup) / 2) == pytest.approx((1 + FLOOR / HIGHEST) / 2)
    assert optimization.factor(1.0) == pytest.approx(FLOOR / HIGHEST)
    factors = [optimization.factor(step / 100) for step in range(101)]
    peak = round(100 * warmup)
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)


@pytest.mark.parametrize("progress", [0.05, 0.1, 0.15])
def test_warmup_is_linear_from_above_zero(progress: float) -> None:
    optimization = Optimization(HIGHEST, FLOOR, warmup=0.2)
    assert optimization.factor(progress) == pytest.approx(progress / 0.2)
    assert 0 < optimization.factor(0.0) <= 1e-2


@pytest.mark.parametrize(
    "settings",
    [
        {"learning_rate": 0.0},
        {"learning_rate": -1.0},
        {"learning_rate": float("nan")},
        {"final_learning_rate": -1.0},
        {"warmup": 1.0},
        {"warmup": -0.1},
        {"weight_decay": -1.0},
        {"clip_norm": 0.0},
    ],
    ids=str,
)
def test_optimization_that_cannot_be_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        Optimization(**settings)


@pytest.mark.parametrize(
    "settings",
    [{"epochs": 0}, {"max_steps": 0}, {"batch_size": 0}, {"validation_images": 0}, {"seed": -1}],
    ids=str,
)
def test_schedule_that_cannot_be_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        Schedule(**settings)
