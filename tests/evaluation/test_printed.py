"""A result is looked at by printing it, and told about while it is made; what is no instance is told apart."""

import io
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

import robustdeq as rd
from robustdeq.base import progress
from robustdeq.evaluation import Check, CheckVerdict, Chosen, GridResult, Paper, measure

CLEAN = np.array([[True, True, True, False], [True, True, False, False]])
ATTACKED = np.array([[[True, False, False, False]], [[False, True, False, False]]])
FOUND = {"clean": CLEAN, "per_sample": ATTACKED, "settings": {"attack": {"eps": 0.25, "norm": "L2"}}}


def result(**changed: Any) -> GridResult:
    return GridResult(("final", "early <z_1>"), ("PGD",), ("phantom",), (True,), **FOUND | changed)


def lines(found: GridResult) -> dict[str, list[str]]:
    """The cells of each line, by its name."""
    return {name: rest.split() for name, rest in (line.split("  ", 1) for line in repr(found).splitlines()[1:-1])}


def test_a_printed_result_is_a_table_with_a_line_for_each_attack() -> None:
    found = lines(result())
    assert found["clean"] == ["75.0", "50.0"]
    assert found["PGD"] == ["25.0", "25.0"]
    assert [*found] == ["clean", "PGD", "worst case"]
    (low, high), _ = 100 * result().worst_case_intervals
    assert found["worst case"][:2] == ["25.0", f"({low:.1f}–{high:.1f})"]
    assert repr(result()).endswith("4 samples, L2 ε = 0.25")


def test_one_defense_makes_one_column() -> None:
    one = GridResult(("final",), ("PGD",), ("phantom",), (True,), CLEAN[:1], ATTACKED[:1])
    (low, high), *_ = 100 * one.worst_case_intervals
    assert lines(one)["worst case"] == ["25.0", f"({low:.1f}–{high:.1f})"]


def test_it_names_checks_that_were_not_passed_and_what_is_certified() -> None:
    checks = tuple(Check(verdict.name, verdict, "", {}) for verdict in CheckVerdict)
    found = result(checks=checks, certified=np.array([True, False, False, False]), certificate="a bound")
    assert "checks not passed: " + ", ".join(v.name for v in CheckVerdict if v is not CheckVerdict.PASSED) in repr(
        found
    )
    assert lines(found)["certified"] == ["25.0"]


def test_in_a_notebook_the_same_is_html() -> None:
    page = result()._repr_html_()
    assert "early &lt;z_1&gt;" in page
    assert "25.0 (" in page
    assert "L2 ε = 0.25" in page


@pytest.fixture(scope="module")
def deq() -> rd.DEQ:
    torch.manual_seed(0)
    return rd.models.conv("digits", in_channels=1).eval()


def images() -> tuple[torch.Tensor, torch.Tensor]:
    return rd.data.load("digits").require("test").head(2).tensors()


@pytest.mark.parametrize(("looked_at", "rank"), [(True, 0), (False, 0), (True, 1)])
def test_a_bar_is_shown_by_the_first_process_where_somebody_looks(
    looked_at: bool,
    rank: int,
    deq: rd.DEQ,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    unchecked: None,
) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda **_: Console(file=shown, force_terminal=looked_at))
    attack = rd.attacks.PGD(eps=0.1, step_size=0.1, steps=1)
    gradients, defenses = {"phantom": rd.gradients.Phantom()}, {"final": rd.defenses.FinalState()}
    process: Any = SimpleNamespace(device=torch.device("cpu"), global_rank=rank, world_size=1)
    measure(deq, *images(), Chosen(attack), defenses=defenses, gradients=gradients, fabric=process)
    assert ("measuring" in shown.getvalue()) == (looked_at and rank == 0)
    assert not "".join(capsys.readouterr())


@pytest.mark.parametrize(
    "use",
    [
        lambda deq: rd.Surrogate(deq, rd.gradients.ThroughSolver),
        lambda deq: rd.gradients.ThroughSolver(rd.defenses.FinalState),
        lambda deq: rd.Defended(deq, rd.defenses.FinalState),
        lambda deq: rd.DEQ(nn.Identity(), nn.Identity(), nn.Identity(), rd.solvers.Broyden),
        lambda deq: Paper(rd.attacks.PGD),
        lambda deq: measure(deq, *images(), Paper),
        lambda deq: measure(deq, *images(), defenses={"mine": rd.defenses.FinalState}),
        lambda deq: measure(deq, *images(), gradients={"mine": rd.gradients.Phantom}, early=1),
        lambda deq: measure(deq, *images(), attacks={"mine": rd.attacks.PGD}, early=1),
    ],
)
def test_a_class_in_the_place_of_an_instance_is_one_sentence(
    use: Callable[[Any], Any], deq: rd.DEQ, unchecked: None
) -> None:
    with pytest.raises(rd.InputError, match=r"is the class \w+; make one of it, \w+\(…\)\.$"):
        use(deq)


@pytest.mark.parametrize("name", rd.__all__)
def test_every_public_name_is_there_after_one_import(name: str) -> None:
    assert getattr(rd, name) is not None
