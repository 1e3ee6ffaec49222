"""The strict protocol: what it attacks with, and that nothing stands which anything broke."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import robustdeq as rd
from robustdeq.attacks import APGD, PGD, AutoAttack, Square, StoppingPGD
from robustdeq.attacks.losses import correct
from robustdeq.deq.defenses import EarlyState, EnsembleState, FinalState
from robustdeq.evaluation import Estimators, GridResult, Store, Strict, assemble, deq_evaluation, network_evaluation
from robustdeq.evaluation.protocol import Family, Role, Rule, Setting, Witness, protocol_named
from robustdeq.gradients import Defended, Gradient, ThroughSolver
from robustdeq.models import MDEQ

ATTACK = PGD(eps=0.1, step_size=0.05, steps=2)
STRICT = Strict(steps=3, restarts=2, apgd_steps=4, targets=2, queries=10, probe_images=8)
DEFENSES = {"final": FinalState(), "early": EarlyState(2), "ensemble": EnsembleState()}
TRUE: dict[str, Gradient] = {name: ThroughSolver(defense) for name, defense in DEFENSES.items()}
SETTING = Setting(4, TRUE, ATTACK, Estimators(steps=(1,), dampings=(1.0,)), STRICT, ("other",))


pytestmark = pytest.mark.xdist_group("strict")


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    return rd.data.load("digits").require("test").head(12).tensors()


@pytest.fixture(scope="module")
def source() -> torch.nn.Module:
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()


@pytest.fixture(scope="module")
def store(trained: MDEQ, data: tuple[Tensor, Tensor], source: torch.nn.Module) -> Store:
    evaluation = deq_evaluation(
        trained, *data, "strict", ATTACK, 2, None, SETTING.estimators, 8, None, STRICT, {"other": source}
    )
    store = Store.create(None, evaluation.manifest())
    evaluation.run(store)
    return store


@pytest.fixture(scope="module")
def result(store: Store) -> GridResult:
    return assemble(store)


def test_strict_goes_beyond_the_paper_with_every_attack_of_the_design() -> None:
    columns = protocol_named("strict")(SETTING)
    paper = protocol_named("paper")(SETTING)
    assert columns[: len(paper)] == paper
    names = [column.name for column in columns]
    assert len(set(names)) == len(names)
    attacks = {attempt.attack for column in columns for attempt in column.attempts}
    assert StoppingPGD.like(ATTACK, steps=3, restarts=2) in attacks
    assert APGD(eps=0.1, steps=4) in attacks
    assert Square(eps=0.1, queries=10) in attacks
    for column in columns:
        if column.rule is Rule.EVERY:
            assert [attempt.against for attempt in column.attempts] == list(DEFENSES)
    assert [column.name for column in columns if column.family is Family.TRANSFER] == ["transferred, other"]
    assert {column.witness for column in columns} == set(Witness)


def test_a_sample_stands_only_where_every_attempt_fails(store: Store, result: GridResult) -> None:
    counting = {
        key for column in store.manifest["columns"] if column["role"] != Role.PROBE for key in column["attempts"]
    }
    standing = np.ones_like(result.standing)
    for key in ("clean", *counting):
        runs = [store.get(key, batch) for batch in range(2)]
        standing &= np.concatenate([run.outcome.standing for run in runs if run is not None], axis=1)
    assert np.array_equal(result.standing, standing)
    assert np.all(result.worst_case <= result.robustness)
    assert 0 < result.worst_case.max() < result.clean.mean()


def test_what_has_fallen_stays_fallen_in_columns_on_survivors(result: GridResult) -> None:
    marked = np.flatnonzero(result.cumulative)
    assert [result.columns[j] for j in marked] == [
        "through the solver, APGD",
        "through the solver, targeted APGD",
        "no gradient, Square",
    ]
    for j in marked:
        before = result.clean & result.per_sample[:, :j].all(axis=1)
        assert np.all(result.per_sample[:, j] <= before)


def test_probes_are_made_on_the_first_images_and_count_in_no_number(store: Store, result: GridResult) -> None:
    probes = [column for column in store.manifest["columns"] if column["role"] == Role.PROBE]
    assert len(probes) == 2
    for column in probes:
        assert column["name"] not in result.columns
        for key in column["attempts"]:
            assert store.get(key, 0) is not None
            assert store.get(key, 1) is None


def test_result_holds_every_check_with_its_numbers(result: GridResult) -> None:
    assert [check.name for check in result.checks] == [
        "zero gradients",
        "one step beats many",
        "more steps do not help",
        "unbounded attack",
        "black box beats white box",
        "forward and backward pass misaligned",
        "logits that are not finite",
    ]
    restarted = result.checks[2].numbers["final"]
    assert restarted["one run"] == result.accuracy[0, result.columns.index("through the solver, final")]
    assert result.to_dict()["checks"][3]["numbers"]["final"]["standing at unbounded ε"] == 0


def test_transferred_adversaries_are_those_of_the_source(
    store: Store, result: GridResult, trained: MDEQ, data: tuple[Tensor, Tensor], source: torch.nn.Module
) -> None:
    j = result.columns.index("transferred, other")
    x, y = data
    for batch, (images, labels) in enumerate(zip(x.split(8), y.split(8), strict=True)):
        adversaries = replace(ATTACK, seed=ATTACK.seed + batch)(source, images, labels)
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
    evaluation = network_evaluation(network, x, y, attack, batch_size=16)
    columns = tuple(
        replace(column, attempts=tuple(replace(attempt, attack=small(attempt.attack)) for attempt in column.attempts))
        for column in evaluation.columns
    )
    evaluation = replace(evaluation, columns=columns)
    store = Store.create(None, evaluation.manifest())
    evaluation.run(store)
    result = assemble(store)
    assert result.defenses == ("as it is",)
    assert result.columns == ("network, PGD, 2 steps", *(f"network, {name}" for name in AutoAttack().components))
    with torch.no_grad():
        assert np.array_equal(result.per_sample[0, 0], correct(network(attack(network, x, y)), y).numpy())
    assert np.all(np.diff(result.accuracy[0]) <= 0)
    assert result.worst_case[0] == result.accuracy[0, -1]


def small(attack: object) -> object:
    if isinstance(attack, PGD):
        return attack
    return replace(attack, **({"queries": 5} if isinstance(attack, Square) else {"steps": 2}))  # pyright: ignore


@pytest.mark.parametrize(("setting", "value"), [("steps", 0), ("restarts", 0), ("queries", -1), ("probe_images", 0)])
def test_strict_settings_are_positive(setting: str, value: int) -> None:
    with pytest.raises(rd.InputError, match=f"{setting} is {value}; give 1 or more"):
        Strict(**{setting: value})
