"""The columns of the paper's tables, and the candidates of each."""

import re
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from cells import make_deq
from robustdeq.attacks import PGD, AutoAttack, JointAttack, MomentumPGD, Square, StoppingPGD
from robustdeq.base.errors import InputError
from robustdeq.deq.defenses import EarlyState, EnsembleState, FinalState
from robustdeq.evaluation import Attempt, Column, Estimators, measure
from robustdeq.evaluation.column import Role, Row, Rule, estimated
from robustdeq.evaluation.protocols import protocol_named
from robustdeq.gradients import (
    Defended,
    Ensemble,
    Exact,
    Phantom,
    SimultaneousAdjoint,
    Surrogate,
    ThroughSolver,
    UnrolledIntermediate,
)

DEQ = make_deq().eval()
LAST = DEQ.last_state
DEFENSES = {"final": FinalState(), "early": EarlyState(2), "ensemble": EnsembleState()}
ROWS = [Row(name, DEQ, defense) for name, defense in DEFENSES.items()]
ATTACK = PGD(steps=2)
X, Y = torch.rand(2, 1, 2, 3), torch.zeros(2, dtype=torch.long)


def columns_of(name: str, **settings: object) -> list[Column]:
    return protocol_named(name, attack=ATTACK, **settings).columns(DEQ, ROWS, {})


def climbed(attempt: Attempt) -> object:
    """The gradient, or the defense, that an attempt climbs."""
    module = attempt.climbs.module
    return module.gradient if isinstance(module, Surrogate) else module.defense


def test_paper_has_three_columns_of_two_families_and_one_per_defense_beside_them() -> None:
    columns = columns_of("paper")
    assert [column.label for column in columns] == [
        *(f"simultaneous adjoint, {reads}" for reads in ("final", "intermediate", "ensemble")),
        *(f"unrolled intermediates, {reads}" for reads in ("final", "intermediate", "ensemble")),
        *(f"through the solver, {name}" for name in DEFENSES),
    ]
    assert [column.role for column in columns] == [Role.PAPER] * 6 + [Role.BEYOND] * 3
    assert len({column.id for column in columns}) == 9


@pytest.mark.parametrize(("states", "count"), [(None, 40), (8, 8), (1, 1)])
def test_few_states_are_searched_evenly_spread(states: int | None, count: int) -> None:
    column = Estimators(states=states).candidates(41)[1]
    searched = [gradient.state for gradient in column.gradients if isinstance(gradient, SimultaneousAdjoint)]
    assert len(searched) == count
    assert searched[0] == 1
    assert count == 1 or searched[-1] == 40
    assert Estimators().candidates(41) == Estimators(states=8).candidates(41)
    steps = [b - a for a, b in pairwise(searched)]
    assert not steps or max(steps) - min(steps) <= 1


def test_candidates_are_the_gradients_of_the_paper_in_both_readings() -> None:
    estimators = Estimators(
        adjoint_step_size=0.5, transpose=False, steps=(1, 3), dampings=(0.5, 1.0), ensemble=(2, 0.7)
    )
    columns = columns_of("paper", estimators=estimators)
    intermediate = range(1, LAST)
    assert all(attempt.attack == ATTACK for column in columns for attempt in column.attempts)
    assert [tuple(map(climbed, column.attempts)) for column in columns] == [
        (SimultaneousAdjoint(None, 0.5, False),),
        tuple(SimultaneousAdjoint(n, 0.5, False) for n in intermediate),
        (Ensemble(SimultaneousAdjoint(None, 0.5, False)),),
        (Phantom(9, 0.5),),
        tuple(
            UnrolledIntermediate(n, k, damping, from_image)
            for n in intermediate
            for k in (1, 3)
            for damping in (0.5, 1.0)
            for from_image in (False, True)
        ),
        (Ensemble(UnrolledIntermediate(steps=2, damping=0.7)),),
        *((defense,) for defense in DEFENSES.values()),
    ]
    assert [attempt.against for column in columns[6:] for attempt in column.attempts] == ROWS


def test_search_of_the_paper_is_over_1_5_9_steps_and_dampings_of_a_half_and_one() -> None:
    assert len(columns_of("paper")[4].attempts) == (LAST - 1) * 3 * 2 * 2


@pytest.mark.parametrize(("states", "searched"), [(1, [1]), (2, [1, 8]), (3, [1, 4, 8]), (8, [*range(1, 9)])])
def test_a_search_of_few_states_goes_evenly_from_the_first_to_the_last(states: int, searched: list[int]) -> None:
    fewer, all_of_them = (Estimators(states=count).candidates(9) for count in (states, None))
    for column, whole in zip(fewer, all_of_them, strict=True):
        every = {g: getattr(g, "state", None) for g in whole.gradients}
        intermediate = "intermediate" in column.id.split("-")
        assert column.gradients == tuple(g for g, n in every.items() if n in searched or not intermediate)
    assert fewer[1].followed == tuple(f"u_{n}" for n in searched)


def test_more_states_than_there_are_is_all_of_them() -> None:
    assert Estimators(states=100).candidates(9) == Estimators().candidates(9)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("", "choose one of worst-case, "), ("Paper", "did you mean paper?"), ("none", "choose one of worst-case, ")],
)
def test_protocol_that_is_not_there_is_refused(name: str, meant: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"there is no protocol '{name}'; {meant}")):
        protocol_named(name)


def test_setting_that_a_protocol_lacks_is_refused() -> None:
    with pytest.raises(InputError, match="the protocol paper has no sources; leave it out, or choose another"):
        protocol_named("paper", sources={})


@pytest.mark.parametrize("settings", [{"steps": ()}, {"dampings": ()}, {"states": 0}], ids=str)
def test_search_over_nothing_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Estimators(**settings)


def test_ready_made_is_table_1() -> None:
    columns = columns_of("ready-made")
    long = replace(ATTACK, steps=1000)
    assert [(column.label, [attempt.attack for attempt in column.attempts]) for column in columns] == [
        ("implicit gradient, exact, 2 steps", [ATTACK]),
        ("implicit gradient, exact, 1000 steps", [long]),
        ("implicit gradient, unrolled, 2 steps", [ATTACK]),
        ("implicit gradient, unrolled, 1000 steps", [long]),
        ("no gradient, Square", [Square(ATTACK.eps)]),
    ]
    assert [climbed(column.attempts[0]) for column in columns[:4]] == [
        *[Estimators().exact] * 2,
        *[Estimators().final] * 2,
    ]
    assert [column.id for column in columns if column.ready_made] == ["unrolled-short"]
    (square,) = columns[-1].attempts
    assert square.against is ROWS[0]
    assert square.climbs.module is ROWS[0].judge


def test_exact_trained_model_is_attacked_with_its_own_backward_steps() -> None:
    own = Exact(max_steps=7)
    trained = DEQ.with_settings(gradient=own)
    columns = protocol_named("ready-made").columns(trained, [Row("final", trained, FinalState())], {})
    assert [climbed(column.attempts[0]) for column in columns[:2]] == [own, own]
    assert [column.id for column in columns if column.ready_made] == ["exact-short"]
    assert Estimators().ready_made(trained) == own
    assert Estimators().ready_made(DEQ) == Estimators().final


@pytest.mark.parametrize("name", ["paper", "strict", "worst-case"])
def test_ready_made_is_the_gradient_that_the_weights_are_trained_with(name: str) -> None:
    own = Exact(max_steps=7)
    trained = DEQ.with_settings(gradient=own)
    columns = protocol_named(name).columns(trained, [Row("final", trained, FinalState())], {})
    assert [climbed(column.attempts[0]) for column in columns if column.ready_made] == [own]
    surrogates = {column.id: column.attempts[0].climbs.module for column in columns}
    climbing = {id for id, module in surrogates.items() if isinstance(module, Surrogate) and module.gradient == own}
    assert climbing - {"ready-made-apgd-t"} == {"exact-final"}
    assert not any(attempt.survivors for column in columns if column.ready_made for attempt in column.attempts)
    assert [column.id for column in columns_of(name) if column.ready_made] == ["unrolled-final"]


def test_autoattack_is_judged_on_the_surrogate_and_on_every_defense() -> None:
    columns = columns_of("autoattack")
    assert len({column.id for column in columns}) == len({column.label for column in columns}) == len(columns) == 12
    assert {attempt.attack for column in columns for attempt in column.attempts} == {AutoAttack(ATTACK.eps)}
    for own, judged in zip(columns[::2], columns[1::2], strict=True):
        assert [attempt.against for attempt in own.attempts] == [None]
        assert [attempt.against for attempt in judged.attempts] == ROWS
        assert {climbed(attempt) for attempt in (*own.attempts, *judged.attempts)} == {climbed(own.attempts[0])}
        assert (own.role, judged.role, judged.rule) == (Role.PAPER, Role.BEYOND, Rule.EVERY)
    assert climbed(columns[2].attempts[0]) == SimultaneousAdjoint(min(4, LAST - 1))
    assert climbed(columns[8].attempts[0]) == UnrolledIntermediate(1, steps=1, damping=1.0, from_image=True)


def test_keys_tell_all_attempts_apart() -> None:
    sources = {"sources": {name: torch.nn.Linear(2, 2) for name in "ab"}}
    for name, settings in (("paper", {}), ("strict", sources), ("ready-made", {}), ("autoattack", {})):
        attempts = [attempt for column in columns_of(name, **settings) for attempt in column.attempts]
        assert len({attempt.key for attempt in attempts}) == len(attempts)


def test_judge_that_is_climbed_itself_is_one_module() -> None:
    for row in ROWS:
        assert isinstance(row.judge, Defended)
        assert [climbed.module for climbed in row.surrogates] == [row.judge]


def test_cost_counts_gradients_and_queries() -> None:
    through, judging = ThroughSolver(FinalState()), DEQ.evaluations(None)
    assert Attempt(ATTACK, estimated(DEQ, through)).evaluations(judging) == 2 * through.evaluations(DEQ) + judging
    assert Attempt(ATTACK, ROWS[0].surrogates[0]).evaluations(judging) == (2 * 3 + 1) * judging
    square = Square(queries=7, restarts=2)
    spent = (square.cost.queries + 1) * judging
    assert square.cost.queries == 2 * (7 + 2) + 2
    assert Attempt(square, ROWS[0].logits_alone, ROWS[0]).evaluations(judging) == spent
    joint = JointAttack(steps=5, restarts=2)
    assert Attempt(joint, ROWS[0].logits_alone).evaluations(judging) == joint.cost.price(0, judging) + judging


@pytest.mark.parametrize("name", ["paper", "strict", "ready-made", "autoattack"])
def test_every_attack_is_made_within_the_bounds(name: str) -> None:
    moved = protocol_named(name, attack=replace(ATTACK, bounds=(-1.0, 3.0)))
    attempts = [attempt for column in moved.columns(DEQ, ROWS, {}) for attempt in column.attempts]
    assert {attempt.attack.threat.bounds for attempt in attempts} == {(-1.0, 3.0)}


class Flat(PGD):
    def loss(self, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return logits[:, 0]


@dataclass(frozen=True)
class Named(PGD):
    steps: int = 3
    note: str = "an own setting"


@pytest.mark.parametrize("name", ["strict", "worst-case", "entropy", "slow-down"])
@pytest.mark.parametrize(("attack", "lost"), [(Flat(), "loss"), (JointAttack(), "run"), (StoppingPGD(), "climb")])
def test_attack_whose_overrides_a_protocol_would_lose_is_refused(name: str, attack: PGD, lost: str) -> None:
    with pytest.raises(InputError, match=f"{type(attack).__name__} overrides {lost}, which (.*PGD|SlowDown) would"):
        measure(DEQ, X, Y, protocol_named(name, attack=attack), early=2)


def test_settings_of_its_own_keep_an_attack_from_no_protocol() -> None:
    columns = {column.id: column for column in protocol_named("strict", attack=Named(0.1)).columns(DEQ, ROWS, {})}
    assert columns["restarts"].attempts[0].attack == StoppingPGD.like(PGD(0.1), 20, 5)
    assert columns["apgd"].attempts[0].attack == MomentumPGD.like(PGD(0.1), 100, 1)
    assert columns["through-final"].attempts[0].attack == Named(0.1)


def test_joint_attack_and_square_say_that_they_climb_no_gradient() -> None:
    said = {column.id: [attempt.label for attempt in column.attempts] for column in columns_of("strict")}
    assert said["joint"] == ["joint iteration of z, u and x, λ = 0.5"]
    assert said["square"] == ["nothing: random search"] * len(DEFENSES)
