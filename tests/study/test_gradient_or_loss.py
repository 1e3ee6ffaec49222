"""Gradient or loss: what every attack may spend, and that each pair is what it says."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import robustdeq as rd
from robustdeq.attacks import PGD
from robustdeq.attacks.losses import correct
from robustdeq.evaluation import Estimators
from robustdeq.gradients import Defended, Surrogate, ThroughSolver
from robustdeq.study import Effort, Study, scale_named
from robustdeq.study.beyond.gradient_or_loss import CLIMBED, GRADIENT_OR_LOSS, LOSSES, attacked, matched
from robustdeq.study.configurations import UNROLLED
from robustdeq.study.grids import strongest_on, white_box
from robustdeq.study.run import reproduce

pytestmark = pytest.mark.xdist_group("gradient-or-loss")
IMAGES = 8


@given(
    st.sampled_from([*LOSSES]),
    st.integers(1, 9),
    st.integers(1, 200),
    st.integers(1, 60),
    st.integers(0, 10**5),
)
def test_what_is_spent_matches_the_budget_within_one_step(
    loss: str, runs: int, gradient: int, forward: int, beyond: int
) -> None:
    """A step of each run, and never more than the budget, if that pays for one step at all."""
    pgd, kind = PGD(restarts=runs), LOSSES[loss]
    budget = kind(replace(pgd, steps=1)).cost.price(gradient, forward) + beyond
    spent = kind(matched(pgd, kind, gradient, forward, budget)).cost.price(gradient, forward)
    assert budget - runs * gradient < spent <= budget


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("study")
    torch.manual_seed(1)
    deq = rd.models.mdeq(replace(rd.models.PRESETS["nano"], max_steps=3), in_channels=1)
    rd.save(deq, folder / "own.safetensors", early=2)
    splits = rd.data.load("digits")
    weights = {way.name: str(folder / "own.safetensors") for way in GRADIENT_OR_LOSS.configurations}
    images, estimators = splits.require("test").head(IMAGES), Estimators(steps=(1,), dampings=(1.0,))
    chosen = Study(scale_named("nano"), splits, images, folder, weights, estimators=estimators, effort=Effort(steps=1))
    return replace(chosen, strict=replace(chosen.strict, targets=2))


def test_every_pair_is_its_attack_on_its_gradient_judged_by_the_final_state(study: Study) -> None:
    trained = study.trained(UNROLLED)
    deq, found = trained.deq, attacked(study, trained, "own")
    best = strongest_on(0, white_box(study, trained, "again"), study.estimators, deq.last_state)
    assert found.best == best.label
    x, y = study.tensors()
    final, plain = Defended(deq, rd.defenses.FinalState()), replace(study.attack, restarts=2)
    for i, gradient in enumerate((study.estimators.ready_made(deq), best, ThroughSolver())):
        for j, kind in enumerate(LOSSES.values()):
            attack = kind(replace(plain, steps=int(found.steps[i, j])))
            adversaries = attack(Surrogate(deq, gradient), x, y, target=final)
            with torch.no_grad():
                assert found.outcomes[i, j].tolist() == correct(final(adversaries), y).tolist()
            step = 2 * gradient.evaluations(deq)
            assert found.evaluations.max() - step < found.evaluations[i, j] + final.defense.evaluations(deq)
    assert (found.steps >= study.attack.steps - 1).all()
    assert found.outcomes.shape == (len(CLIMBED), len(LOSSES), IMAGES)


def test_panels_tell_the_same_of_the_same_images(study: Study) -> None:
    accuracy, gradient, gradient_p, loss, loss_p, evaluations, steps = reproduce(
        GRADIENT_OR_LOSS, replace(study, seeds=1)
    ).panels
    stands = accuracy.values.reshape(4, 3, 3)
    np.testing.assert_allclose(gradient.values.reshape(4, 2, 3), stands[:, :2] - stands[:, 2:])
    falls = stands[:, :, :1] - stands[:, :, 1:]
    np.testing.assert_allclose(loss.values.reshape(4, 2, 3), falls.swapaxes(1, 2))
    for effect, p in ((gradient, gradient_p), (loss, loss_p)):
        assert effect.low is not None
        assert effect.high is not None
        assert ((effect.low <= effect.values) & (effect.values <= effect.high)).all()
        assert ((p.values > 0) & (p.values <= 1)).all()
        assert (effect.rows, effect.columns) == (p.rows, p.columns)
    assert evaluations.rows == steps.rows
    assert [row.partition(": ")[0] for row in steps.rows] == [*accuracy.rows]


def test_strongest_on_the_final_state_leaves_least_of_it(study: Study, tmp_path: Path) -> None:
    trained = study.trained(UNROLLED)
    grid = white_box(study, trained, "grid")
    chosen = strongest_on(0, grid, study.estimators, trained.deq.last_state)
    climbed = [g for column in study.estimators.candidates(trained.deq.last_state) for g in column.gradients]
    named = {gradient.label: gradient for gradient in climbed}
    alone = study.climbed("each", trained.deq, {"final": rd.defenses.FinalState()}, named)
    standing = dict(zip(named, alone.accuracy[0], strict=True))
    assert standing[chosen.label] == min(standing.values())
    tried = np.concatenate(
        [counts[0] for counts, beyond in zip(grid.tried, grid.beyond_paper, strict=True) if not beyond]
    )
    np.testing.assert_allclose(tried / 24, [standing[gradient.label] for gradient in climbed])
