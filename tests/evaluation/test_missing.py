"""Columns that a model does not have: marked n/a with the reason, while everything else is measured."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import robustdeq as rd
from cells import VECTOR, TanhCell
from robustdeq import cli
from robustdeq.attacks.losses import cross_entropy
from robustdeq.deq import DEQ
from robustdeq.evaluation import AutoAttackTable, Chosen, Estimators, GridResult, Paper, Strict, measure
from robustdeq.evaluation.agreement import estimated_gradients
from robustdeq.evaluation.column import Row
from robustdeq.evaluation.protocol import Protocol
from robustdeq.reporting import grid_table, markdown
from robustdeq.reporting.page.grid_charts import grid_chart
from robustdeq.solvers import Solver

ATTACK = rd.attacks.PGD(eps=0.3, step_size=0.2, steps=1)
ESTIMATORS = Estimators(steps=(1,), dampings=(1.0,), states=2)
WHY = "Anderson keeps no estimate of the inverse Jacobian; solve with Broyden where one is needed."
ADJOINTS = tuple(f"simultaneous adjoint, {reads}" for reads in ("final", "intermediate", "ensemble"))
FEW = {"steps": 1, "restarts": 1, "apgd_steps": 2, "targets": 1, "queries": 2, "probe_images": 2}
PAPER, STRICT = Paper(ATTACK, ESTIMATORS), Strict(ATTACK, ESTIMATORS, **FEW)
MISSING = {"paper": ADJOINTS, "strict": (*ADJOINTS, "implicit gradient, SHINE")}


BROYDEN, ANDERSON = (kind(max_steps=3) for kind in (rd.solvers.Broyden, rd.solvers.Anderson))


def model(solver: Solver = ANDERSON, classes: int = 10) -> DEQ:
    torch.manual_seed(0)
    return rd.models.mdeq("nano", classes, in_channels=1).eval().with_settings(solver=solver)


def data(classes: int = 10) -> tuple[Tensor, Tensor]:
    x, y = rd.data.load("digits").require("test").head(4).tensors()
    return x, y % classes


def measured(protocol: Protocol, deq: DEQ | None = None, classes: int = 10) -> GridResult:
    return measure(deq or model(), *data(classes), protocol, early=2)


@pytest.mark.parametrize("protocol", [PAPER, STRICT], ids=lambda protocol: protocol.name)
def test_what_needs_an_inverse_estimate_is_not_made_and_all_else_is(protocol: Protocol) -> None:
    result, complete = measured(protocol), measured(protocol, model(BROYDEN))
    assert result.missing == dict.fromkeys(MISSING[protocol.name], WHY)
    assert set(result.columns).isdisjoint(MISSING[protocol.name])
    assert {*complete.columns} == {*result.columns, *MISSING[protocol.name]}
    assert complete.missing == {}
    assert result.robustness.tolist() == result.accuracy[:, ~np.asarray(result.beyond_paper)].min(axis=1).tolist()


def test_a_table_says_n_a_and_why() -> None:
    result = measured(PAPER)
    shown = markdown(grid_table(result))
    for name in ADJOINTS:
        assert f"| {name} | n/a | n/a | n/a |" in shown
    assert shown.count(f"n/a: {WHY.rstrip('.')}") == 1
    assert f"n/a: {WHY.rstrip('.')}" in grid_chart(result).table.caption


def test_what_is_missing_is_read_as_it_was_written(tmp_path: Path) -> None:
    result = measured(PAPER)
    result.save(tmp_path / "results.json")
    assert GridResult.read(tmp_path / "results.json").missing == result.missing


def test_only_the_estimates_that_there_are_are_held_against_the_true_gradient() -> None:
    x, y = data()
    loss = partial(cross_entropy, y=y)
    fewer, every = (estimated_gradients(model(solver), x, loss, ESTIMATORS) for solver in (ANDERSON, BROYDEN))
    assert set(every) - set(fewer) == {"adjoint u_n", "adjoint u_{n+1}", "SHINE"}
    assert {gradients.shape for gradients in fewer.values()} == {(4, *x.shape)}


@pytest.mark.slow
def test_a_model_that_solves_with_anderson_goes_through_the_command_line(tmp_path: Path) -> None:
    rd.save(model(), tmp_path / "own.safetensors", early=2)
    command = ["evaluate", str(tmp_path / "own.safetensors"), "--data", "digits", "-n", "4", "--attack.steps", "1"]
    for protocol in ("paper", "strict"):
        effort = [f"--strict.{name}={value}" for name, value in FEW.items()]
        cli.main([*command, "--protocol", protocol, *effort, "--output", str(tmp_path / protocol)])
        result = GridResult.read(tmp_path / protocol / "results.json")
        assert set(result.missing) == set(MISSING[protocol])
        cli.main(["report", str(tmp_path / protocol), "--output", str(tmp_path / f"{protocol}.html")])
        assert WHY in (tmp_path / f"{protocol}.html").read_text(encoding="utf-8")


def test_autoattack_is_made_on_the_surrogates_that_are_there() -> None:
    deq = model()
    rows = [Row("final", deq, rd.defenses.FinalState())]
    assert [column.label for column in AutoAttackTable(ATTACK).columns(deq, rows, {}) if column.missing] == [
        f"{name}, judged on the {reader}" for name in ADJOINTS for reader in ("surrogate", "defense")
    ]


def test_two_classes_are_enough_for_every_attack() -> None:
    assert not measured(STRICT, model(BROYDEN, classes=2), classes=2).missing


def test_attacks_that_need_more_classes_are_not_made() -> None:
    dlr = rd.attacks.MultiTargeted(ATTACK)
    chosen = Chosen(ATTACK, {"DLR": (dlr, None), "PGD": (ATTACK, None)})
    result = measured(chosen, model(BROYDEN, classes=2), classes=2)
    assert list(result.missing) == ["DLR"]
    assert result.missing["DLR"].startswith("the targeted dlr needs 4 classes and the model has 2")
    assert result.columns == ("PGD",)


@pytest.mark.parametrize("protocol", [PAPER, STRICT], ids=lambda protocol: protocol.name)
@pytest.mark.parametrize("kind", [rd.solvers.Broyden, rd.solvers.Anderson, rd.solvers.Picard])
def test_one_image_one_step_and_two_classes_make_a_table(protocol: Protocol, kind: type[Solver]) -> None:
    torch.manual_seed(0)
    injection = nn.Sequential(nn.Flatten(), nn.Linear(64, VECTOR))
    deq = DEQ(injection, TanhCell(0.7), nn.Linear(VECTOR, 2), kind(max_steps=1)).eval()
    x, y = data(2)
    result = measure(deq, x[:1], y[:1], protocol, early=1)
    assert result.defenses == ("final", "early (z_1)", "ensemble")
    assert np.isin(result.accuracy, (0, 1)).all()
    assert set(ADJOINTS) <= {*result.missing, *result.columns}


def test_an_attack_of_several_is_made_where_all_of_them_can_be() -> None:
    deq, (x, y) = model(BROYDEN, classes=3), data(3)
    result = measure(deq, x, y, AutoAttackTable(ATTACK, ESTIMATORS), gradients={"own": rd.gradients.Phantom()}, early=2)
    assert result.columns == ("own",)
    assert len(result.missing) == 12
    assert np.isnan(result.robustness).all()
    assert {row["minimum_paper"] for row in result.to_dict()["defenses"]} == {None}
