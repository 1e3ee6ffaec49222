"""The order of attacks: evaluations are counted, what has fallen stays fallen, and what was measured is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import robustdeq as rd
from robustdeq.attacks import PGD
from robustdeq.base.provenance import DISPLAY, code_fingerprint
from robustdeq.study import EXPERIMENTS, Effort, Study, scale_named
from robustdeq.study.beyond import attack_order
from robustdeq.study.beyond.attack_order import Course, alone, besieged, ours
from robustdeq.study.evidence import Evidence
from robustdeq.study.study import Trained
from robustdeq.zoo.card import fingerprint


def study_of(folder: Path, deq: rd.DEQ) -> Study:
    """On images that the model classifies correctly, but for one."""
    splits = rd.data.load("digits")
    effort = Effort(apgd_steps=3, targets=2, queries=5)
    images = splits.require("test").head(8)
    with torch.no_grad():
        labels = deq(images.tensors()[0]).argmax(dim=1)
    labels[0] = (labels[0] + 1) % 10
    images = replace(images, labels=labels)
    return Study(scale_named("conv-digits"), splits, images, folder, effort=effort, batch_size=3, seeds=1)


@pytest.fixture(scope="module")
def deq() -> rd.DEQ:
    torch.manual_seed(0)
    return rd.models.conv("digits", in_channels=1).eval()


def test_every_attack_alone_takes_as_many_gradients() -> None:
    for name, attack in alone(PGD(eps=0.1), Effort()).items():
        assert attack.cost.gradients == 30, name


def test_evaluations_are_counted_and_what_has_fallen_stays_fallen(deq: rd.DEQ, tmp_path: Path) -> None:
    study, trained = study_of(tmp_path, deq), Trained(deq, 3, None, fingerprint(deq))
    attack = study.attack
    one, two = PGD(attack.eps, attack.step_size, steps=1), PGD(attack.eps, attack.step_size, steps=2)
    course = besieged(study, trained, "both", {"one": one, "two": two}, True)
    x, y = study.tensors()
    with torch.no_grad():
        clean = (deq(x).argmax(dim=1) == y).numpy()
    per_gradient = deq.evaluations(None)
    share = clean.mean()
    np.testing.assert_array_equal(course.clean, clean)
    # A gradient is a forward pass and as many products with the Jacobian; a judgement is a forward pass.
    assert course.evaluations[0] == pytest.approx(share * (2 * per_gradient + per_gradient))
    assert (course.standing[1] <= course.standing[0]).all()
    assert (course.standing[0] <= clean).all()
    alone = besieged(study, trained, "both", {"one": one, "two": two}, False)
    assert alone.evaluations[1] == pytest.approx(share * (4 * per_gradient + per_gradient))


def test_what_was_measured_is_kept_with_the_code_that_measured_it(
    deq: rd.DEQ, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, trained = study_of(tmp_path, deq), Trained(deq, 3, None, fingerprint(deq))
    attacks = {"one": PGD(study.attack.eps, 0.1, steps=1)}
    first = besieged(study, trained, "one", attacks, True)
    alone = besieged(study, trained, "one", attacks, False)
    monkeypatch.setattr(attack_order, "_courses", lambda *_: pytest.fail("it is measured again"))
    for survivors, before in ((True, first), (False, alone)):
        again = besieged(study, trained, "one", attacks, survivors)
        np.testing.assert_array_equal(before.clean, again.clean)
        np.testing.assert_array_equal(before.standing, again.standing)
        np.testing.assert_array_equal(before.evaluations, again.evaluations)
    evidence = Evidence.of_model(study, "order", study.size, trained.fingerprint)
    assert [*evidence.code.values()] == [code_fingerprint(unrelated=DISPLAY)] * 2


def test_within_a_budget_only_finished_attacks_count() -> None:
    after = np.array([[True, True, False], [True, False, False]])
    course = Course(np.ones(3, dtype=bool), np.array([10.0, 30.0]), after)
    assert [course.within(budget).sum() for budget in (9, 10, 29, 30, 99)] == [3, 2, 2, 1, 1]


def test_our_order_ends_where_no_gradient_is_needed() -> None:
    assert [*ours(PGD(eps=0.1), Effort()).values()][-1].cost.gradients == 0
    assert EXPERIMENTS["attack-order"].name == "attack-order"
