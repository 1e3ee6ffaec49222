"""Nothing that an entry says is trusted: honest ones make a row, all others a sentence."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import robustdeq as rd
from diverging import BRIGHT, CLASS, DIM, diverging
from monotone_networks import DENSE, images, trained
from robustdeq.attacks import PGD
from robustdeq.attacks.losses import correct
from robustdeq.base.errors import InputError
from robustdeq.certificates import Lipschitz, Smoothing
from robustdeq.evaluation import Estimators, GridResult, WorstCase
from robustdeq.leaderboard import Entry, Statement, judged, row_file
from robustdeq.leaderboard.judgement import _compare
from robustdeq.reporting import leaderboard_sections, leaderboard_tables
from robustdeq.reporting.leaderboard import read_entries

FEW = Estimators(steps=(1,), dampings=(1.0,), states=1)
EFFORT = WorstCase(estimators=FEW, steps=5, restarts=1, apgd_steps=10, targets=2, queries=20, probe_images=8)
KNOWN = {"data": "three classes", "provenance": {"seed": 1}}
EPS = 0.35


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return trained(DENSE)


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    return images(40)


@pytest.fixture(scope="module")
def adversaries(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
    surrogate = rd.Defended(model, rd.defenses.FinalState())
    return PGD(EPS, EPS / 8, steps=40, norm="L2")(surrogate, *data)


def left(model: nn.Module, data: tuple[Tensor, Tensor], adversaries: Tensor) -> np.ndarray:
    x, y = data
    with torch.no_grad():
        return (correct(model(x), y) & correct(model(adversaries), y)).numpy()


def said(worst_case: float, **changed: object) -> Statement:
    plain = {"name": "A model (7)", "training": "a little", "network": "m", "data": "d", "images": 40, "norm": "L2"}
    return Statement(**plain | {"eps": EPS, "adversaries": "a", "worst_case": worst_case} | changed)


@pytest.fixture(scope="module")
def entry(model: nn.Module, data: tuple[Tensor, Tensor], adversaries: Tensor) -> Entry:
    share = 100 * left(model, data, adversaries).mean()
    return judged(said(share), model, *data, adversaries, Lipschitz(), EFFORT, **KNOWN)


def test_every_number_of_an_honest_entry_is_measured(
    entry: Entry, model: nn.Module, data: tuple[Tensor, Tensor], adversaries: Tensor
) -> None:
    with torch.no_grad():
        np.testing.assert_array_equal(entry.clean, correct(model(data[0]), data[1]).numpy())
    assert entry.standing is not None
    assert entry.certified is not None
    assert entry.ready_made is not None
    assert (entry.standing <= left(model, data, adversaries)).all()
    assert (entry.certified <= entry.standing).all()
    assert 0 < entry.certified.sum() <= entry.standing.sum() < entry.clean.sum()
    np.testing.assert_array_equal(entry.certified, Lipschitz().certify(model, *data).holds(EPS, computed=True))
    assert entry.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert entry.residual is not None
    assert entry.residual < 1e-3
    assert row_file(Path("rows"), entry.name) == Path("rows/a-model-7.json")
    assert (entry.data, entry.eps) == ("three classes", EPS)


def test_adversaries_outside_the_ball_are_refused(
    model: nn.Module, data: tuple[Tensor, Tensor], adversaries: Tensor
) -> None:
    x, _ = data
    for wrong, sentence in (
        ((x + 2 * (adversaries - x)).clamp(0, 1), "further than eps"),
        (torch.where(torch.arange(40)[:, None, None, None] == 3, torch.nan, adversaries), "not finite"),
        (adversaries - 0.2, "outside"),
        (adversaries[:39], "give one for each"),
    ):
        with pytest.raises(InputError, match=sentence):
            judged(said(10), model, *data, wrong, None, EFFORT, **KNOWN)


def test_adversaries_that_leave_another_share_are_refused(
    model: nn.Module, data: tuple[Tensor, Tensor], adversaries: Tensor
) -> None:
    share = 100 * left(model, data, adversaries).mean()
    with pytest.raises(InputError, match=r"withstand the adversaries here; say what they leave"):
        judged(said(share + 5), model, *data, adversaries, None, EFFORT, **KNOWN)


def test_weak_adversaries_are_refused(model: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    """An entry whose authors hardly attacked looks robust; our own say that it is not."""
    x, _ = data
    share = 100 * left(model, data, x).mean()
    with pytest.raises(InputError, match=r"our own attacks break \d+ of \d+ images that the adversaries leave"):
        judged(said(share), model, *data, x, None, EFFORT, **KNOWN)


def test_two_percent_are_of_the_images_that_are_left() -> None:
    left, ours = np.arange(500) < 100, np.arange(500) < 97
    result = GridResult(("final",), ("a",), ("A",), (True,), left[None], ours[None, None])
    with pytest.raises(InputError, match="break 3 of 100 images"):
        _compare(result, left)
    _compare(replace(result, per_sample=(np.arange(500) < 98)[None, None]), left)


def test_adversary_that_makes_the_solver_diverge_counts_as_an_error() -> None:
    model = diverging()
    with torch.no_grad():
        assert correct(model(BRIGHT), CLASS).all()
    found = judged(said(0, norm="Linf", eps=0.2), model, DIM, CLASS, BRIGHT, None, EFFORT, **KNOWN)
    assert found.clean.all()
    assert found.standing is not None
    assert not found.standing.any()


def test_broken_certified_image_is_told_loudly(
    model: nn.Module, data: tuple[Tensor, Tensor], adversaries: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Lipschitz().certify(model, *data)
    wrong = replace(honest, computed=np.full(40, 9.0))
    monkeypatch.setattr(Lipschitz, "certify", lambda *_: wrong)
    share = 100 * left(model, data, adversaries).mean()
    with pytest.raises(InputError, match=r"\d+ certified images are broken"):
        judged(said(share), model, *data, adversaries, Lipschitz(), EFFORT, **KNOWN)


def test_network_without_a_solver_is_judged_too(data: tuple[Tensor, Tensor]) -> None:
    torch.manual_seed(0)
    network, (x, y) = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval(), data
    with torch.no_grad():
        y = network(x).argmax(dim=1)
        gradient = (network[1].weight[:, None] - network[1].weight[None]).reshape(3, 3, 16)
        logits = network(x)
        gap = (logits.gather(1, y[:, None]) - logits) / gradient[y].norm(dim=2).clamp_min(1e-9)
        gap.scatter_(1, y[:, None], torch.inf)
        to = gap.argmin(dim=1)
        away = -gradient[y, to] / gradient[y, to].norm(dim=1, keepdim=True)
        moved = (x + 0.0999 * away.view_as(x)).clamp(0, 1)
    share = 100 * left(network, (x, y), moved).mean()
    found = judged(said(share, eps=0.1), network, x, y, moved, None, EFFORT, **KNOWN)
    assert (found.evaluations, found.residual, found.certified) == (None, None, None)
    assert found.standing is not None
    assert found.standing.sum() < 40


def test_a_vote_is_certified_and_not_attacked(model: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    alone = said(float("nan"), adversaries="", certificate="smoothing", eps=0.1)
    smoothing = Smoothing(sigma=0.1, selection=20, estimation=200)
    found = judged(alone, model, *data, None, smoothing, EFFORT, **KNOWN)
    assert (found.standing, found.ready_made) == (None, None)
    assert found.certified is not None
    assert 0 < found.certified.sum() <= found.clean.sum()


def test_entries_are_read_as_they_were_written(entry: Entry, tmp_path: Path) -> None:
    entry.save(tmp_path / "entry.json")
    (again,) = read_entries(tmp_path)
    for name, value in vars(entry).items():
        np.testing.assert_array_equal(getattr(again, name), value, err_msg=name)
    plain = json.loads((tmp_path / "entry.json").read_text())
    del plain["clean"]
    (tmp_path / "entry.json").write_text(json.dumps(plain))
    with pytest.raises(InputError, match="holds no entry"):
        read_entries(tmp_path)
    with pytest.raises(InputError, match="holds no entries; make them with `robustdeq submit`"):
        read_entries(tmp_path / "empty")


def test_most_robust_come_first_and_threat_models_stay_apart(entry: Entry) -> None:
    assert entry.standing is not None
    weak = replace(
        entry, name="weak", standing=np.zeros_like(entry.standing), certified=None, reported=47.0, protocol="PGD"
    )
    vote = replace(entry, name="vote", standing=None, certified=np.arange(40) < 4)
    other = replace(entry, name="other", eps=0.1)
    first, second = leaderboard_tables([weak, other, vote, entry])
    assert [row.name for row in first.rows] == ["other"]
    assert [row.name for row in second.rows] == [entry.name, "vote", "weak"]
    by_name = {row.name: dict(zip(second.columns, row.cells, strict=True)) for row in second.rows}
    assert by_name["weak"]["worst case"].value == "0.0"
    assert by_name["weak"]["its own protocol"].text == "47.0 (PGD)"
    assert by_name["vote"]["worst case"].text == "–"
    assert by_name[entry.name]["certified"].value == f"{100 * entry.certified.mean():.1f}, Lipschitz bound"
    text = leaderboard_sections([weak, other, vote, entry])
    assert text.count("## three classes, 40 images; ε = ") == 2


def test_models_measured_on_different_images_of_one_name_stay_apart(entry: Entry) -> None:
    ours, theirs = (replace(entry, name=name, provenance={"images": name * 32}) for name in ("ab", "cd"))
    tables = leaderboard_tables([theirs, entry, ours])
    assert [[row.name for row in table.rows] for table in tables] == [[entry.name], ["ab"], ["cd"]]
    ends = [table.title.rpartition("; ")[2] for table in tables]
    assert ends == ["images unknown", "images abababababab", "images cdcdcdcdcdcd"]
    (alone,) = leaderboard_tables([ours])
    assert "images ab" not in alone.title
