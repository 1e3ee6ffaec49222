"""Ways of training compared under weaker and stronger eyes."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

import robustdeq as rd
from robustdeq import cli
from robustdeq.base.errors import InputError
from robustdeq.base.statistics import paired_effect, paired_test
from robustdeq.study.beyond import overestimate
from robustdeq.study.beyond.overestimate import OVERESTIMATE, READINGS, ranking
from robustdeq.study.scales import scale_named
from robustdeq.study.study import Study, Trained


def drawn(seeds: int, share: float, samples: int = 40) -> np.ndarray:
    return np.random.default_rng(round(100 * share)).random((seeds, len(READINGS), samples)) < share


def test_one_way_of_training_less_another_is_the_difference_of_their_accuracies() -> None:
    found = {f"way {share}": drawn(3, share) for share in (0.2, 0.5, 0.8)}
    points, p = ranking(found)
    means = {way: 100 * outcomes.mean(axis=(0, 2)) for way, outcomes in found.items()}
    assert points.rows == p.rows == tuple(f"{a} less {b}" for a, b in combinations(found, 2))
    assert points.columns == READINGS
    np.testing.assert_allclose(points.values, [means[a] - means[b] for a, b in combinations(found, 2)])
    assert points.low is not None
    assert points.high is not None
    assert (points.low < points.values).all()
    assert (points.values < points.high).all()
    effect = paired_effect(found["way 0.2"][:, 2].astype(float) - found["way 0.8"][:, 2])
    assert (100 * effect.mean, effect.p) == pytest.approx((points.values[1, 2], p.values[1, 2]))


def test_for_one_seed_the_test_is_mcnemars() -> None:
    found = {"one": drawn(1, 0.3, 16), "other": drawn(1, 0.6, 16)}
    _, p = ranking(found)
    exact = [paired_test(*pair).p for pair in zip(found["one"][0], found["other"][0], strict=True)]
    assert p.values[0].tolist() == pytest.approx(exact)


def test_only_the_ways_that_were_asked_for_are_compared(tmp_path: Path) -> None:
    splits = rd.data.load("digits")
    every = Study(scale_named("nano"), splits, splits.require("test").head(2), tmp_path)
    assert every.compared(OVERESTIMATE.configurations) == OVERESTIMATE.configurations
    two = replace(every, ways=("aligned", "exact-8-7"))
    assert [way.name for way in two.compared(OVERESTIMATE.configurations)] == ["aligned", "exact-8-7"]
    with pytest.raises(InputError, match=r"there is no way of training 'alligned'; did you mean aligned\?"):
        replace(every, ways=("alligned",)).compared(OVERESTIMATE.configurations)


def test_models_that_were_attacked_apart_are_compared_without_another_attack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = {way: drawn(1, share, 4)[0] for way, share in (("unrolled", 0.3), ("exact-8-7", 0.7))}
    asked = []

    def attacked(study: Study, deq: object, protocol: object, title: str) -> np.ndarray:
        asked.append(title)
        return outcomes[title.removeprefix("attacking ")]

    monkeypatch.setattr(overestimate, "attacked", attacked)
    monkeypatch.setattr(Study, "trained", lambda self, way, seed: Trained(torch.nn.Identity(), 1, None, way.name))
    monkeypatch.setattr(Trained, "deq", property(lambda self: self.model))
    splits = rd.data.load("digits")
    study = Study(scale_named("nano"), splits, splits.require("test").head(4), tmp_path, seeds=1)
    for way in outcomes:
        list(OVERESTIMATE.measure(replace(study, ways=(way,), weights={way: "anything"})))
    accuracy, *_ = OVERESTIMATE.measure(replace(study, ways=tuple(outcomes)))
    assert asked == ["attacking unrolled", "attacking exact-8-7"]
    np.testing.assert_allclose(accuracy.values, [100 * found.mean(axis=1) for found in outcomes.values()])


def test_a_way_that_is_none_is_one_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    command = ["reproduce", "overestimate", "--scale", "conv-digits", "--ways", "[alligned]"]
    with pytest.raises(SystemExit) as stopped:
        cli.main([*command, "--output", str(tmp_path)])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.strip().endswith("did you mean aligned?")
