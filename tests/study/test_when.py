"""The models of `when` differ in one thing from their base, and what is said of them is counted."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from robustdeq.base.provenance import describe
from robustdeq.data import load
from robustdeq.evaluation import Paper
from robustdeq.study import Study, scale_named
from robustdeq.study.beyond import when
from robustdeq.study.beyond.when import POINTS, SIGNS, VARIATIONS, measured, scatter
from robustdeq.study.panel import Panel
from robustdeq.study.scales import Budget
from robustdeq.training.plan import Plan


def parts(plan: Plan) -> list[object]:
    recipe, schedule = plan.recipe, plan.recipe.schedule
    rest = replace(recipe, schedule=replace(schedule, seed=0), regularization=type(recipe.regularization)())
    decisive = plan.model, plan.data, plan.architecture, plan.gradient, schedule.seed, recipe.regularization, rest
    return [describe(part) for part in decisive]


def test_there_are_forty_models_and_the_first_are_of_every_kind() -> None:
    assert len({variation.title for variation in VARIATIONS}) == len(VARIATIONS) >= 40
    kinds = {variation.kind for variation in VARIATIONS}
    assert {variation.kind for variation in VARIATIONS[: len(kinds)]} == kinds


@pytest.mark.slow
def test_each_differs_from_its_base_in_one_thing() -> None:
    bases = {variation.kind: parts(variation.plan(Budget())) for variation in VARIATIONS if not variation.change}
    for variation in VARIATIONS:
        own = parts(variation.plan(Budget()))
        changed = sum(a != b for a, b in zip(own, bases[variation.kind], strict=True))
        assert changed == bool(variation.change), variation.title


def test_the_budget_of_the_study_cuts_them_further() -> None:
    for variation in VARIATIONS[:2]:
        assert variation.plan(Budget(max_steps=3)).recipe.schedule.max_steps == 3


def test_a_model_that_was_measured_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []

    def planned(study: Study, plan: Plan, way: object, known_as: str) -> SimpleNamespace:
        trained.append(known_as)
        study.used[known_as] = "its weights"
        return SimpleNamespace(deq=known_as)

    monkeypatch.setattr(Study, "planned", planned)
    monkeypatch.setattr(when, "attacked", lambda study, deq, protocol, title: np.eye(5, 8, dtype=bool))
    monkeypatch.setattr(when, "signs", lambda study, deq, title: np.arange(3.0))
    splits, first, second = load("digits"), *VARIATIONS[:2]
    study = Study(scale_named("conv-digits"), splits, splits.require("test").head(8), tmp_path)
    for at in (study, study, replace(study, effort=replace(study.effort, models=7), seeds=1)):
        outcomes, signs = measured(replace(at, used={}), first, Paper(at.attack), "")
        np.testing.assert_array_equal(outcomes, np.eye(4, 8, dtype=bool))
        np.testing.assert_array_equal(signs, np.arange(3.0))
    assert len(trained) == 1
    again = replace(study, used={})
    measured(again, first, Paper(study.attack), "")
    assert again.used == {trained[0]: "its weights"}
    measured(study, second, Paper(study.attack), "")
    measured(replace(study, batch_size=3), first, Paper(study.attack), "")
    assert len(trained) == len([*(tmp_path / "when").glob("*.npz")]) == 3


def drawn(overestimates: np.ndarray, x: np.ndarray, which: int) -> Panel:
    rows, y = tuple(f"model {i}" for i in range(len(x))), overestimates[:, None]
    panel = Panel("", "points", rows, ("",), y, low=y - 1, high=y + 1)
    return scatter(SIGNS[which], x, panel, tuple("ab"[i % 2] for i in range(len(x))))


def test_the_rule_counts_the_models_on_either_side_of_it() -> None:
    x, y = np.array([0.001, 0.002, 0.02, 0.01, 0.05, 0.2]), np.array([0.0, 1.0, POINTS, 12.0, 9.0, 30.0])
    panel = drawn(y, x, 0)
    at, hits, above, others, below = map(
        float,
        re.findall(r"z\* of (\S+), .*? in (\d+) of (\d+) models, below it in (\d+) of (\d+)", panel.finding)[0],
    )
    assert hits == (y[x > at] > POINTS).sum()
    assert others == (y[x <= at] > POINTS).sum()
    assert (above, below) == ((x > at).sum(), (x <= at).sum())
    np.testing.assert_array_equal(panel.values, np.stack([x, y], axis=1))
    assert {level for _, level in panel.line} == {y[x > at].mean(), y[x <= at].mean()}
    falling = drawn(y, -x, 2)
    assert falling.finding.startswith("below a cosine")
    assert f"in {hits:.0f} of {above:.0f} models, above it in {others:.0f} of {below:.0f}" in falling.finding


def test_no_rule_is_made_of_models_that_are_all_alike() -> None:
    panel = drawn(np.zeros(5), np.arange(5.0), 1)
    assert panel.line == ()
    assert "0 of them are overrated by more than 5 points, which makes no rule of thumb" in panel.finding


def test_a_scatter_is_read_as_it_was_written() -> None:
    panel = drawn(np.array([0.0, 1.0, 12.0, 9.0]), np.arange(4.0), 1)
    again = Panel.from_plain(panel.plain())
    assert (again.groups, again.line, again.finding) == (panel.groups, panel.line, panel.finding)
    assert again.drawing is panel.drawing
