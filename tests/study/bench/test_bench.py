"""Benchmarks run end to end, and say what came of them."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from robustdeq import cli
from robustdeq.attacks import StoppingPGD
from robustdeq.base.errors import InputError
from robustdeq.deq.modes import evaluating
from robustdeq.evaluation import Estimators, Strict
from robustdeq.gradients import Surrogate, ThroughSolver
from robustdeq.study.bench import BENCHES, BenchResult, Claim, Setting
from robustdeq.study.bench.freezing import UnrelentingPGD
from robustdeq.study.stopwatch import Timing

TINY = ["--size", "nano", "--batch", "2", "--repetitions", "1", "--device", "cpu"]


@pytest.mark.parametrize(
    "name", ["solve", *(pytest.param(name, marks=pytest.mark.slow) for name in ("profile", "gradients"))]
)
def test_a_benchmark_is_stored_and_becomes_a_document(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder, document = tmp_path / "bench", tmp_path / "performance.md"
    try:
        cli.main(["bench", name, *TINY, "--output", str(folder)])
        failed = 0
    except SystemExit as exit:
        failed = exit.code
    found = BenchResult.read(folder / f"{name}.json")
    assert bool(failed) == (not all(claim.holds for claim in found.measured.claims))
    printed = " ".join(capsys.readouterr().out.split())
    assert all(row in printed for panel in found.measured.panels for row in panel.rows)
    cli.main(["bench", "--output", str(folder), "--document", str(document)])
    text = document.read_text(encoding="utf-8")
    assert text.count(BENCHES[name].title) == 1 and found.provenance["command"] in text
    for claim in found.measured.claims:
        assert f"{claim.subject} | {claim.ratio:.2f}" in text
    found.save(folder / f"{name}-again.json")
    cli.main(["bench", "--output", str(folder), "--document", str(document)])
    assert f"## {BENCHES[name].title}: again" in document.read_text(encoding="utf-8")


CHEAP = {
    "estimators": Estimators(steps=(1,), dampings=(1.0,), states=1),
    "steps": 1,
    "restarts": 1,
    "apgd_steps": 2,
    "targets": 1,
    "queries": 2,
    "probe_images": 2,
}


@pytest.mark.slow
def test_every_attack_of_the_strict_protocol_has_a_price_whatever_is_looked_at_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robustdeq.study.bench.strict.Strict", partial(Strict, **CHEAP))
    found = []
    for probes in (Strict.probes, lambda self: ()):
        monkeypatch.setattr(Strict, "probes", probes)
        cli.main(["bench", "strict", *TINY, "--output", str(tmp_path)])
        found.append(BenchResult.read(tmp_path / "strict.json").measured.panels)
    (counted, timed), (without, _) = found
    assert counted.rows[0] == "Clean images and probes"
    *attacks, papers, everything = counted.values[:, 0]
    assert everything == pytest.approx(sum(attacks)) and 0 < papers < everything
    assert (timed.values > 0).all()
    assert counted.values[0, 0] > without.values[0, 0] > 0
    np.testing.assert_allclose(counted.values[1:-1], without.values[1:-1])


def test_ratios_are_those_of_rounds() -> None:
    claim = Claim.of_times("a over b", Timing([2.0, 3.0, 8.0]), Timing([1.0, 2.0, 2.0]), bound=2.0)
    assert (claim.ratio, claim.low, claim.high) == (2.0, 1.5, 4.0)
    assert claim.holds
    assert not Claim.of_counts("c over d", 3, 2, bound=1.6, at_least=True).holds


def test_freezing_changes_no_outcome() -> None:
    setting = Setting("nano", batch=12)
    deq = setting.model().double()  # no sign of a gradient may depend on who shares the batch
    x, y = setting.images(deq, 12)
    x = x.double()
    settings = {"eps": 0.3, "step_size": 0.1, "steps": 4, "restarts": 3}
    with evaluating(deq):
        surrogate = Surrogate(deq, ThroughSolver())
        with torch.no_grad():
            y = torch.where(torch.arange(12) % 3 > 0, deq(x).argmax(dim=1), y)
        frozen, unrelenting = (attack(**settings)(surrogate, x, y) for attack in (StoppingPGD, UnrelentingPGD))
    torch.testing.assert_close(frozen, unrelenting)


def test_what_is_no_benchmark_is_refused_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "solve.json").write_text(json.dumps({"name": "solve"}))
    with pytest.raises(InputError, match="holds no benchmark"):
        BenchResult.read(tmp_path / "solve.json")
    for arguments, sentence in (
        (["bench", "sovle"], "did you mean solve?"),
        (["bench", "solve", "--size", "huge"], "there is no MDEQ of size 'huge'"),
        (["bench", "solve", "--batch", "0"], "batch is 0"),
        (["bench", "--output", str(tmp_path / "none"), "--document", str(tmp_path / "p.md")], "holds no benchmarks"),
    ):
        with pytest.raises(SystemExit) as exit:
            cli.main(arguments)
        assert exit.value.code == 2
        assert sentence in " ".join(capsys.readouterr().err.split())
