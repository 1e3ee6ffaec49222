"""The strict protocol: what it attacks with, and that nothing stands which anything broke."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from typing_extensions import override

import robustdeq as rd
from robustdeq.attacks import (
    APGD,
    PGD,
    AutoAttack,
    Cascade,
    MomentumPGD,
    MultiTargeted,
    Square,
    StoppingPGD,
    TargetedAPGD,
    TargetedFAB,
)
from robustdeq.attacks.losses import correct
from robustdeq.base.provenance import describe
from robustdeq.deq.defenses import EarlyState, EnsembleState, FinalState
from robustdeq.evaluation import (
    Attempt,
    Chosen,
    Column,
    Estimators,
    GridResult,
    Network,
    Paper,
    Store,
    Strict,
    assemble,
    measure,
)
from robustdeq.evaluation.column import Role, Row, Rule, transferred
from robustdeq.evaluation.measure import plan
from robustdeq.evaluation.probes import PROBES
from robustdeq.evaluation.store import FILE
from robustdeq.gradients import Defended
from robustdeq.models import MDEQ

ATTACK = PGD(eps=0.1, step_size=0.05, steps=2)
ESTIMATORS = Estimators(steps=(1,), dampings=(1.0,), states=2)
STRICT = Strict(ATTACK, ESTIMATORS, steps=3, restarts=2, apgd_steps=4, targets=2, queries=10, probe_images=8)
DEFENSES = {"final": FinalState(), "early": EarlyState(2), "ensemble": EnsembleState()}


pytestmark = pytest.mark.xdist_group("strict")


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    return rd.data.load("digits").require("test").head(12).tensors()


@pytest.fixture(scope="module")
def source() -> torch.nn.Module:
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()


@pytest.fixture(scope="module")
def folder(
    trained: MDEQ, data: tuple[Tensor, Tensor], source: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("strict")
    measure(trained, *data, replace(STRICT, sources={"other": source}), early=2, batch_size=8, folder=folder)
    return folder


@pytest.fixture(scope="module")
def store(folder: Path) -> Store:
    return Store.read(folder / FILE)


@pytest.fixture(scope="module")
def result(store: Store) -> GridResult:
    return assemble(store)


class Moving(torch.nn.Linear):
    """A network that remembers where it was moved to."""

    place: object = None

    @override
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.flatten(1))

    @override
    def to(self, *place: Any, **others: Any) -> Any:
        self.place = place
        return super().to(*place, **others)


def test_network_that_is_transferred_from_is_moved_to_the_images(trained: MDEQ, data: tuple[Tensor, Tensor]) -> None:
    network, attack = Moving(64, 10), replace(ATTACK, steps=1)
    job = plan(trained, *data, Chosen(attack, {"PGD": (attack, None)}), {"final": FinalState()})
    column = Column("transfer", "transferred", (Attempt(attack, transferred("network", network)),))
    job = replace(job, columns=(column,))
    with Store.begin(None, job.manifest()) as store:
        job.run(store)
    assert network.place == (data[0].device,)


def test_strict_goes_beyond_the_paper_with_every_attack_of_the_design(trained: MDEQ, source: torch.nn.Module) -> None:
    rows = [Row(name, trained, defense) for name, defense in DEFENSES.items()]
    columns = replace(STRICT, sources={"other": source}).columns(trained, rows, {})
    paper = Paper(ATTACK, ESTIMATORS).columns(trained, rows, {})
    assert [column.id for column in columns[: len(paper)]] == [column.id for column in paper]
    for own, theirs in zip(columns, paper, strict=False):
        assert [attempt.key for attempt in own.attempts] == [attempt.key for attempt in theirs.attempts]
    ids = [column.id for column in columns]
    assert len(set(ids)) == len({column.label for column in columns}) == len(ids)
    attacks = {attempt.attack for column in columns for attempt in column.attempts}
    assert StoppingPGD.like(ATTACK, steps=3, restarts=2) in attacks
    assert MomentumPGD.like(ATTACK, 4, 1) in attacks
    assert Square(eps=0.1, queries=10) in attacks
    (ready_made,) = (column for column in columns if column.label == "ready-made, targeted APGD")
    half = MomentumPGD.like(ATTACK, 2, 1)
    targeted = MultiTargeted(half, 2, ("targeted_probability_margin", "targeted_margin"))
    for attempt in ready_made.attempts:
        assert attempt.attack == targeted
        assert attempt.climbs.description == describe(ESTIMATORS.ready_made(trained))
        assert not attempt.survivors
    (through,) = (column for column in columns if column.label == "through the solver, targeted APGD")
    assert {attempt.attack for attempt in through.attempts} == {targeted}
    for column in columns[len(paper) :]:
        if column.rule is Rule.EVERY:
            assert [attempt.against for attempt in column.attempts] == rows
    assert [column.label for column in columns if column.id.startswith("transfer-")] == ["transferred, other"]


def test_a_sample_stands_only_where_every_attempt_within_the_ball_fails(store: Store, result: GridResult) -> None:
    counting = {
        attempt["key"]
        for column in store.manifest["columns"]
        if column["role"] != Role.OUTSIDE
        for attempt in column["attempts"]
    }
    standing = np.ones_like(result.standing)
    for key in ("clean", *counting):
        for batch in range(2):
            found = store.get(key, batch)
            if found is not None:
                standing[:, 8 * batch : 8 * batch + 8] &= found.outcome.standing
    assert np.array_equal(result.standing, standing)
    assert np.all(result.worst_case <= result.robustness)
    assert 0 < result.worst_case.max() < result.clean.mean()


def test_what_has_fallen_stays_fallen_in_columns_on_survivors(result: GridResult) -> None:
    marked = np.flatnonzero(result.cumulative)
    assert [result.columns[j] for j in marked] == [
        "through the solver, targeted APGD",
        "through the solver, APGD",
        "no gradient, Square",
    ]
    for j in marked:
        before = result.clean & result.per_sample[:, :j].all(axis=1)
        assert np.all(result.per_sample[:, j] <= before)


def test_probes_are_made_on_the_first_images_and_are_no_column(store: Store, result: GridResult) -> None:
    probes = [column for column in store.manifest["columns"] if not Role(column["role"]).shown]
    assert [column["role"] for column in probes] == [Role.PROBE, Role.OUTSIDE]
    for column in probes:
        assert column["id"] not in result.ids
        for attempt in column["attempts"]:
            assert store.get(attempt["key"], 0) is not None
            assert store.get(attempt["key"], 1) is None


def test_result_holds_every_check_with_its_numbers(result: GridResult) -> None:
    assert [check.name for check in result.checks] == [
        *PROBES,
        "zero gradients",
        "operations without a derivative",
        "one step beats many",
        "more steps do not help",
        "unbounded attack",
        "black box beats white box",
        "forward and backward pass misaligned",
        "logits that are not finite",
    ]
    checks = {check.name: check.numbers["final"] for check in result.checks}
    restarted = checks["more steps do not help"]
    assert restarted["one run"] == result.accuracy[0, result.columns.index("through the solver, final")]
    assert checks["unbounded attack"]["standing at unbounded ε"] == 0
    assert [check["name"] for check in result.to_dict()["checks"]] == [*checks]


def test_transferred_adversaries_are_those_of_the_source(
    store: Store, result: GridResult, trained: MDEQ, data: tuple[Tensor, Tensor], source: torch.nn.Module
) -> None:
    j = result.columns.index("transferred, other")
    x, y = data
    for batch, (images, labels) in enumerate(zip(x.split(8), y.split(8), strict=True)):
        adversaries = ATTACK(source, images, labels)
        with torch.no_grad():
            stands = correct(Defended(trained, FinalState())(adversaries), labels).numpy()
        assert np.array_equal(result.per_sample[0, j, 8 * batch : 8 * batch + 8], stands)


def test_explicit_network_is_attacked_as_autoattack_does(source: torch.nn.Module) -> None:
    x, y = rd.data.load("digits").require("test").head(10).tensors()
    torch.manual_seed(2)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 10, 8), torch.nn.Flatten()).eval()
    optimizer = torch.optim.Adam(network.parameters(), 0.1)
    for _ in range(20):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
    attack = PGD(eps=0.05, step_size=0.02, steps=2)
    parts = (APGD(0.05, steps=2), TargetedAPGD(0.05, steps=2), TargetedFAB(0.05, steps=2), Square(0.05, queries=5))
    result = measure(network, x, y, Network(attack, Cascade(parts)), batch_size=16)
    assert result.defenses == ("as it is",)
    assert result.columns == ("network, PGD, 2 steps", *(f"network, {name}" for name in AutoAttack().components))
    with torch.no_grad():
        assert np.array_equal(result.per_sample[0, 0], correct(network(attack(network, x, y)), y).numpy())
    assert np.all(np.diff(result.accuracy[0]) <= 0)
    assert result.worst_case[0] == result.accuracy[0, -1]


@pytest.mark.parametrize(("setting", "value"), [("steps", 0), ("restarts", 0), ("queries", -1), ("probe_images", 0)])
def test_strict_settings_are_positive(setting: str, value: int) -> None:
    with pytest.raises(rd.InputError, match=f"{setting} is {value}; give 1 or more"):
        Strict(**{setting: value})
