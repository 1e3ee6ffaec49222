"""The learning rate rises linearly, then falls to its floor; the solver makes the steps of its phase."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from robustdeq.base.errors import InputError
from robustdeq.training import Optimization, Schedule, SolverSteps

HIGHEST, FLOOR = 1e-2, 1e-4


@pytest.mark.parametrize("decay", ["cosine", "linear"])
@pytest.mark.parametrize("warmup", [0.0, 0.2, 0.5])
def test_factor_peaks_after_the_warmup_and_ends_at_the_floor(warmup: float, decay: str) -> None:
    optimization = Optimization(HIGHEST, FLOOR, warmup, decay=decay)
    assert optimization.factor(warmup) == pytest.approx(1)
    assert optimization.factor((1 + warmup) / 2) == pytest.approx((1 + FLOOR / HIGHEST) / 2)
    assert optimization.factor(1.0) == pytest.approx(FLOOR / HIGHEST)
    factors = [optimization.factor(step / 100) for step in range(101)]
    peak = round(100 * warmup)
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)


@pytest.mark.parametrize(
    ("decay", "quarter"), [("cosine", (1 + math.cos(math.pi / 4)) / 2), ("linear", 3 / 4)], ids=["cosine", "linear"]
)
def test_decay_has_the_shape_of_its_name(decay: str, quarter: float) -> None:
    optimization = Optimization(HIGHEST, FLOOR, warmup=0.2, decay=decay)
    floor = FLOOR / HIGHEST
    assert optimization.factor(0.4) == pytest.approx(floor + (1 - floor) * quarter)


@pytest.mark.parametrize("progress", [0.05, 0.1, 0.15])
def test_warmup_is_linear_from_above_zero(progress: float) -> None:
    optimization = Optimization(HIGHEST, FLOOR, warmup=0.2)
    assert optimization.factor(progress) == pytest.approx(progress / 0.2)
    assert 0 < optimization.factor(0.0) <= 1e-2


@pytest.mark.parametrize("algorithm", ["adamw", "sgd"])
def test_scheduler_follows_the_factor_and_stays_at_its_end(algorithm: str) -> None:
    optimization = Optimization(HIGHEST, FLOOR, warmup=0.5, algorithm=algorithm)
    optimizer = optimization.optimizer(nn.Linear(2, 2))
    scheduler = optimization.scheduler(optimizer, steps=4)
    rates = []
    for _ in range(6):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([HIGHEST * optimization.factor(min(step / 4, 1.0)) for step in range(6)])


def one_step(gradient: float, settings: dict[str, Any]) -> list[float]:
    """A weight of 2 before and after two steps on the same gradient."""
    weight = nn.Linear(1, 1, bias=False)
    nn.init.constant_(weight.weight, 2.0)
    optimizer = Optimization(0.1, **settings).optimizer(weight)
    visited = []
    for _ in range(2):
        weight.weight.grad = torch.full_like(weight.weight, gradient)
        optimizer.step()
        visited.append(weight.weight.item())
    return visited


def test_sgd_is_nesterovs_with_the_weight_decay_in_the_gradient() -> None:
    velocity, z, expected = 0.0, 2.0, []
    for _ in range(2):
        g = 0.5 + 0.3 * z
        velocity = 0.8 * velocity + g
        z -= 0.1 * (g + 0.8 * velocity)
        expected.append(z)
    assert one_step(0.5, {"algorithm": "sgd", "momentum": 0.8, "weight_decay": 0.3}) == pytest.approx(expected)
    assert one_step(0.5, {"algorithm": "sgd", "momentum": 0.0}) == pytest.approx([1.95, 1.90])


def test_adamw_decays_the_weights_apart_from_the_gradient() -> None:
    decayed = 2.0 * (1 - 0.1 * 0.3)
    assert one_step(0.5, {"weight_decay": 0.3})[0] == pytest.approx(decayed - 0.1, rel=1e-5)
    optimizer = Optimization(momentum=0.7).optimizer(nn.Linear(1, 1))
    assert optimizer.param_groups[0]["betas"] == (0.7, 0.999)


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
        {"momentum": 1.0},
        {"momentum": -0.1},
        {"decay": "step"},
        {"algorithm": "adam"},
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


@given(st.lists(st.tuples(st.integers(1, 30), st.floats(0.01, 0.99)), unique_by=lambda phase: phase[1]), st.data())
def test_solver_makes_the_steps_of_the_last_phase_that_has_begun(
    later: list[tuple[int, float]], data: st.DataObject
) -> None:
    phases = [(3, 0.0), *sorted(later, key=lambda phase: phase[1])]
    counts, starts = zip(*phases, strict=True)
    progress = data.draw(st.sampled_from(starts) | st.floats(0, 1))
    expected = next(count for count, start in reversed(phases) if start <= progress)
    assert SolverSteps(counts, starts).at(progress) == {"max_steps": expected}


def test_solver_is_the_models_own_where_nothing_is_said() -> None:
    assert SolverSteps().at(0.5) == {}
    assert SolverSteps(asynchronous=True).at(0.5) == {"tol": 0.0}
    assert SolverSteps([4], [0], asynchronous=True).at(1.0) == {"max_steps": 4, "tol": 0.0}


@pytest.mark.parametrize(
    ("counts", "starts", "message"),
    [
        ([4, 8], [0.0], "2 counts and 1 starts"),
        ([0], [0.0], "counts are"),
        ([4], [0.1], "starts are"),
        ([4, 8], [0.0, 1.0], "starts are"),
        ([4, 8, 9], [0.0, 0.5, 0.5], "starts are"),
        ([4, 8], [0.0, float("nan")], "starts are"),
        ([4], [float("nan")], "starts are"),
    ],
)
def test_phases_that_cannot_be_are_refused(counts: list[int], starts: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SolverSteps(counts, starts)
