"""From both sides: certificates stand below the attacks, and a broken certified image is told loudly."""

import itertools
import json
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import robustdeq as rd
from monotone_networks import CONV, DENSE, images, trained
from robustdeq.base.errors import InputError
from robustdeq.base.norms import Linf, named
from robustdeq.base.threat import ThreatModel
from robustdeq.certificates import Certified, IntervalBounds, Lipschitz
from robustdeq.defenses import EarlyState, FinalState
from robustdeq.evaluation import CheckVerdict, Chosen, GridResult, measure
from robustdeq.evaluation.bracket import AGREEMENT, bracketed, guaranteed
from robustdeq.evaluation.result import SUMMARIES
from robustdeq.reporting import certified_table, grid_table, read_evaluation, robustbench_entries, save_certified_figure
from robustdeq.reporting.page.grid_charts import headline
from robustdeq.zoo.monotone import MonotoneConfig

FEW = rd.evaluation.Estimators(steps=(1,), dampings=(1.0,), states=1)
CONTRACTING = replace(DENSE, operator="contracting", splitting="forward-backward")


@dataclass(frozen=True)
class Other(Linf):
    """A norm of which nobody knows how it compares with others."""


def cascade(threat: ThreatModel) -> rd.evaluation.WorstCase:
    attack = rd.attacks.PGD(threat.eps, threat.eps / 4, steps=10, norm=threat.norm)
    return rd.evaluation.WorstCase(attack, FEW, steps=5, restarts=1, apgd_steps=10, targets=2, queries=30)


@pytest.mark.parametrize(
    ("config", "threat"),
    [
        (DENSE, ThreatModel(0.15, "L2")),
        (CONV, ThreatModel(0.3, "L2")),
        (CONTRACTING, ThreatModel(0.05, "Linf")),
    ],
    ids=["dense", "convolutional", "contracting"],
)
def test_cascade_breaks_no_certified_image(config: MonotoneConfig, threat: ThreatModel) -> None:
    model, (x, y) = trained(config), images(24)
    certificate = IntervalBounds() if threat.norm == "Linf" else Lipschitz()
    certified = certificate.certify(model, x, y)
    result = measure(model, x, y, cascade(threat), early=3, certified=certified)
    check = next(check for check in result.checks if check.name == AGREEMENT)
    assert check.verdict is CheckVerdict.PASSED
    assert result.certified is not None
    assert 0 < result.certified.mean() <= result.worst_case[0]
    assert f"one of the {result.certified.sum()} certified images" in check.sentence


def plain(standing: list[bool]) -> GridResult:
    stands = np.array([standing])
    clean = np.ones_like(stands)
    return GridResult(("final",), ("pgd",), ("g",), (True,), clean, stands[:, None])


def certificates(radius: list[float], norm: str = "L2") -> Certified:
    labels = np.zeros(len(radius), int)
    return Certified("bound", "all", named(norm), labels, labels, np.array(radius), np.array(radius), 0.1)


def held(result: GridResult) -> tuple[CheckVerdict, str]:
    check = next(check for check in result.checks if check.name == AGREEMENT)
    return check.verdict, check.sentence


def test_broken_certified_image_fails_loudly() -> None:
    x, y = torch.zeros(3, 1, 2, 2), torch.zeros(3, dtype=torch.long)
    threat = ThreatModel(0.5, "L2")
    certified = certificates([1.0, 0.6, 0.4])
    broken = bracketed(plain([True, False, False]), certified, guaranteed(certified, threat, nn.Identity(), x, y))
    verdict, sentence = held(broken)
    assert verdict is CheckVerdict.FAILED
    assert "break 1 of 2 certified images" in sentence
    certified = certificates([0.1] * 3)
    nothing = bracketed(plain([True] * 3), certified, guaranteed(certified, threat, nn.Identity(), x, y))
    assert held(nothing) == (CheckVerdict.TOO_FEW, "No image is certified at this ε.")


def test_certificates_of_other_images_are_refused() -> None:
    x = torch.zeros(2, 1, 2, 2)
    with pytest.raises(InputError, match="of 3 other images than these 2"):
        guaranteed(certificates([1.0] * 3), ThreatModel(0.1, "L2"), nn.Identity(), x, torch.zeros(2).long())


def test_certificates_of_the_same_labels_on_other_images_or_of_another_model_are_refused() -> None:
    model, (x, y) = trained(DENSE), images(2)
    certified, threat = Lipschitz().certify(model, x, y), ThreatModel(0.1, "L2")
    assert guaranteed(certified, threat, model, x, y).shape == (2,)
    with pytest.raises(InputError, match="of another set of images"):
        guaranteed(certified, threat, model, x.flip(0), y)
    with pytest.raises(InputError, match="of another model"):
        guaranteed(certified, threat, nn.Identity(), x, y)
    unsaid = replace(certified, settings={"weights": certified.settings["weights"]})
    with pytest.raises(InputError, match="of another set of images"):
        guaranteed(unsaid, threat, model, x, y)


def test_what_was_certified_is_read_back_with_the_store(tmp_path: Path) -> None:
    model, (x, y) = trained(DENSE), images(4)
    attack = rd.attacks.PGD(0.1, 0.1, steps=1, norm="L2")
    protocol, rows = Chosen(attack, {"PGD": (attack, None)}), {"final": FinalState()}
    certified = Lipschitz().certify(model, x, y)
    made = measure(model, x, y, protocol, defenses=rows, certified=certified, folder=tmp_path)
    made.save(tmp_path / "results.json")
    found = read_evaluation(tmp_path)
    assert (found.certificate, found.checks) == (made.certificate, made.checks)
    assert found.certified is not None
    assert np.array_equal(found.certified, made.certified)


def test_certificates_of_the_vote_among_copies_are_refused() -> None:
    x, y = torch.zeros(2, 1, 2, 2), torch.zeros(2).long()
    vote = rd.certificates.Smoothing(estimation=20).certify(trained(DENSE), *images(2))
    assert not vote.of_model
    with pytest.raises(InputError, match="cover the vote among noisy copies"):
        guaranteed(replace(vote, labels=y.numpy()), ThreatModel(0.1, "L2"), nn.Identity(), x, y)


def test_certificates_that_do_not_fit_are_refused_before_any_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["robustdeq.evaluation.measure"]
    monkeypatch.setattr(module, "plan", lambda *_: pytest.fail("an attack was planned"))
    model, (x, y) = trained(DENSE), images(4)
    with pytest.raises(InputError, match="say nothing of Other"):
        certified = replace(certificates([1.0] * 4), labels=y.numpy())
        measure(model, x, y, cascade(ThreatModel(0.1, Other())), certified=certified)


def test_attacks_beyond_the_pixels_that_are_covered_are_refused(tmp_path: Path) -> None:
    """Interval bounds clip their boxes to [0, 1]; a Lipschitz bound holds everywhere."""
    model, (x, y) = trained(CONTRACTING), images(2)
    boxes, wide = IntervalBounds(halvings=1).certify(model, x, y), (-1.0, 2.0)
    boxes.save(tmp_path / "boxes.json")
    for certified in (boxes, Certified.read(tmp_path / "boxes.json"), certificates([1.0] * 2, "Linf")):
        for bounds in (wide, (0.0, math.inf), (-0.1, 1.0)):
            with pytest.raises(InputError, match=r"cover pixels in \[0, 1\] and the attacks use \[.*\]; certify by"):
                certified.covering(ThreatModel(0.01, "Linf", bounds), 64)
        for bounds in ((0.0, 1.0), (0.2, 0.8)):
            assert certified.covering(ThreatModel(0.01, "Linf", bounds), 64) == 0.01
    everywhere = Lipschitz().certify(trained(DENSE), x, y)
    everywhere.save(tmp_path / "everywhere.json")
    for certified in (everywhere, Certified.read(tmp_path / "everywhere.json")):
        assert certified.covering(ThreatModel(0.01, "L2", wide), 64) == 0.01


def test_a_defense_that_certificates_are_not_of_is_not_called_certified(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (x, y) = trained(DENSE), images(4)
    threat = ThreatModel(0.1, "L2")
    attack = rd.attacks.PGD(threat.eps, threat.eps, steps=1, norm=threat.norm)
    protocol = Chosen(attack, {"PGD": (attack, None)})
    certified = replace(certificates([1.0] * 4), labels=y.numpy())
    early, final = {"early": EarlyState(1)}, {"final": FinalState()}
    assert measure(model, x, y, protocol, defenses=final | early, certified=certified).certified is not None
    module = sys.modules["robustdeq.evaluation.measure"]
    monkeypatch.setattr(module, "finish", lambda *_: pytest.fail("an attack was made"))
    with pytest.raises(InputError, match="'early', and the certificates are of the model as it is; begin"):
        measure(model, x, y, protocol, defenses=early | final, certified=certified)


@settings(max_examples=50, deadline=None)
@given(eps=st.floats(0.01, 0.2), seed=st.integers(0, 1000))
def test_covering_ball_holds_every_perturbation(eps: float, seed: int) -> None:
    generator, x = torch.Generator().manual_seed(seed), torch.zeros(5, 1, 3, 4, dtype=torch.float64)
    for certified, attacked in itertools.product(("L2", "Linf"), ("Linf", "L2", "L1")):
        threat = ThreatModel(eps, attacked)
        radius = certificates([1.0], certified).covering(threat, 12)
        delta = eps * threat.measure.uniform(x, generator)
        assert (named(certified).size(delta) <= radius * (1 + 1e-12)).all()
    corner = named("L2").size(torch.full((1, 12), eps, dtype=torch.float64))
    assert float(corner) == pytest.approx(certificates([1.0]).covering(ThreatModel(eps), 12))
    with pytest.raises(InputError, match="say nothing of Other"):
        certificates([1.0]).covering(ThreatModel(eps, Other()), 12)


def test_result_keeps_what_is_certified(tmp_path: Path) -> None:
    x, y = torch.zeros(3, 1, 2, 2), torch.zeros(3, dtype=torch.long)
    certified = certificates([1.0, 0.6, 0.1])
    result = bracketed(plain([True] * 3), certified, guaranteed(certified, ThreatModel(0.5, "L2"), nn.Identity(), x, y))
    assert {*result.to_frame()} - {*result.columns} == {*SUMMARIES}
    result.save(tmp_path / "results.json")
    again = GridResult.read(tmp_path / "results.json")
    assert again.certified is not None
    assert again.certified.tolist() == [True, True, False]
    assert again.certificate == "bound"
    line = next(row for row in grid_table(again).rows if row.name == "certified")
    assert line.cells[0].value == "66.7"
    assert again.to_frame()["certified"].iloc[0] == pytest.approx(2 / 3)
    measure = next(measure for measure in headline(again).measures if measure.name == "certified")
    assert (measure.value, "bound" in measure.note) == ("66.7", True)
    assert robustbench_entries(again)["final"]["footnote"].endswith("Certified robust accuracy: 66.67% (bound).")


def test_certificates_are_kept_to_the_digit(tmp_path: Path) -> None:
    model, (x, y) = trained(DENSE), images(6)
    found = Lipschitz().certify(model, x, y)
    found.save(tmp_path / "certified.json")
    again = Certified.read(tmp_path / "certified.json")
    for name in ("labels", "predicted", "radius", "computed"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
    assert (again.norm, again.tolerance, again.settings) == (found.norm, found.tolerance, found.settings)


@pytest.mark.parametrize("content", ["", "5", "{}", '{"title": 1}', "\udc80"])
def test_file_without_certificates_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "certified.json").write_text(content, errors="surrogateescape")
    with pytest.raises(InputError, match="holds no certificates"):
        Certified.read(tmp_path / "certified.json")
    with pytest.raises(InputError, match="cannot be read"):
        Certified.read(tmp_path / "none.json")


def test_arrays_of_different_lengths_are_refused(tmp_path: Path) -> None:
    certificates([1.0, 2.0]).save(tmp_path / "certified.json")
    values = json.loads((tmp_path / "certified.json").read_text())
    (tmp_path / "certified.json").write_text(json.dumps(values | {"radius": [1.0]}))
    with pytest.raises(InputError, match="holds no certificates"):
        Certified.read(tmp_path / "certified.json")


def test_table_shows_both_models() -> None:
    found = replace(certificates([0.5, 0.05, math.inf]), computed=np.array([0.0, 0.05, 0.3]))
    table = certified_table(found, [("1/10", 0.1)])
    assert [cell.value for cell in table.rows[0].cells] == ["100.0", "100.0"]
    assert [cell.value for cell in table.rows[1].cells] == ["66.7", "33.3"]
    assert "residual of at most 0.1" in table.caption
    assert len(certified_table(replace(found, tolerance=None), []).columns) == 1


def test_table_shows_attacks_above_certificates_where_there_were_some(tmp_path: Path) -> None:
    found = certificates([0.5, 0.05, 0.2])
    table = certified_table(found, [("1/10", 0.1)], {0.3: np.array([True, False, False])})
    assert table.columns[0] == "attacks leave"
    assert [(row.name, row.cells[0].value) for row in table.rows] == [
        ("ε = 0 (clean)", "–"),
        ("ε = 1/10", "–"),
        ("ε = 0.3", "33.3"),
    ]
    save_certified_figure(found, tmp_path / "curve.svg", "a model", {0.3: np.array([True, False, False])})
    drawn = (tmp_path / "curve.svg").read_text()
    assert all(word in drawn for word in ("attacks leave", "unknown", "certified: all", "a model"))
