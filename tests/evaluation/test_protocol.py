"""The columns of the paper's tables, and the candidates of each."""

from dataclasses import replace

import pytest

from cells import make_deq
from robustdeq.attacks import PGD, AutoAttack, JointAttack, Square
from robustdeq.base.errors import InputError
from robustdeq.deq.defenses import EarlyState, EnsembleState, FinalState
from robustdeq.evaluation import Estimators
from robustdeq.evaluation.attempt import Attempt
from robustdeq.evaluation.protocol import Family, Role, Rule, Setting, protocol_named
from robustdeq.evaluation.subject import DefendedDEQ
from robustdeq.gradients import Ensemble, Gradient, Phantom, SimultaneousAdjoint, ThroughSolver, UnrolledIntermediate

LAST = 5
DEFENSES = {"final": FinalState(), "early": EarlyState(2), "ensemble": EnsembleState()}
TRUE: dict[str, Gradient] = {name: ThroughSolver(defense) for name, defense in DEFENSES.items()}
ATTACK = PGD(steps=2)


def setting(estimators: Estimators | None = None, sources: tuple[str, ...] = ()) -> Setting:
    return Setting(LAST, TRUE, ATTACK, estimators or Estimators(), sources=sources)


def test_paper_has_three_columns_of_two_families_and_one_per_defense_beside_them() -> None:
    columns = protocol_named("paper")(setting())
    paper = [(family, reads) for family in list(Family)[:2] for reads in ("final", "intermediate", "ensemble")]
    assert [(column.family, column.reads) for column in columns] == paper + [(Family.SOLVER, name) for name in DEFENSES]
    assert len({column.name for column in columns}) == 9


def test_candidates_are_the_gradients_of_the_paper() -> None:
    estimators = Estimators(
        adjoint_step_size=0.5, transpose=False, steps=(1, 3), dampings=(0.5, 1.0), ensemble=(2, 0.7)
    )
    columns = protocol_named("paper")(setting(estimators))
    intermediate = range(1, LAST)
    assert all(attempt.attack == ATTACK for column in columns for attempt in column.attempts)
    assert [tuple(attempt.gradient for attempt in column.attempts) for column in columns] == [
        (SimultaneousAdjoint(None, 0.5, False),),
        tuple(SimultaneousAdjoint(n, 0.5, False) for n in intermediate),
        (Ensemble(SimultaneousAdjoint(None, 0.5, False)),),
        (Phantom(9, 0.5),),
        tuple(UnrolledIntermediate(n, k, damping) for n in intermediate for k in (1, 3) for damping in (0.5, 1.0)),
        (Ensemble(UnrolledIntermediate(steps=2, damping=0.7)),),
        *((ThroughSolver(defense),) for defense in DEFENSES.values()),
    ]


def test_search_of_the_paper_is_over_1_5_9_steps_and_dampings_of_a_half_and_one() -> None:
    column = protocol_named("paper")(setting())[4]
    assert len(column.attempts) == 4 * 3 * 2


@pytest.mark.parametrize("name", ["", "Paper", "none"])
def test_protocol_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"there is no protocol '{name}'; choose one of 'paper'"):
        protocol_named(name)


@pytest.mark.parametrize("settings", [{"steps": ()}, {"dampings": ()}], ids=str)
def test_search_over_nothing_is_refused(settings: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(InputError):
        Estimators(**settings)


def test_ready_made_is_table_1() -> None:
    columns = protocol_named("ready-made")(setting())
    assert [(column.reads, [attempt.attack for attempt in column.attempts]) for column in columns] == [
        ("exact, 2 steps", [ATTACK]),
        ("exact, 1000 steps", [replace(ATTACK, steps=1000)]),
        ("unrolled, 2 steps", [ATTACK]),
        ("unrolled, 1000 steps", [replace(ATTACK, steps=1000)]),
        ("Square", [Square(ATTACK.eps)]),
    ]
    assert [column.attempts[0].gradient for column in columns] == [
        *[Estimators().exact] * 2,
        *[Estimators().final] * 2,
        None,
    ]
    assert columns[-1].attempts[0].against == "final"


def test_autoattack_is_judged_on_the_surrogate_and_on_every_defense() -> None:
    columns = protocol_named("autoattack")(setting())
    assert len({column.name for column in columns}) == len(columns) == 12
    assert {attempt.attack for column in columns for attempt in column.attempts} == {AutoAttack(ATTACK.eps)}
    for own, judged in zip(columns[::2], columns[1::2], strict=True):
        assert [attempt.against for attempt in own.attempts] == [None]
        assert [attempt.against for attempt in judged.attempts] == list(DEFENSES)
        assert {attempt.gradient for attempt in (*own.attempts, *judged.attempts)} == {own.attempts[0].gradient}
        assert (own.role, judged.role, judged.rule) == (Role.PAPER, Role.BEYOND, Rule.EVERY)
    assert columns[2].attempts[0].gradient == SimultaneousAdjoint(2)
    assert columns[8].attempts[0].gradient == UnrolledIntermediate(1, steps=1, damping=1.0)


def test_keys_tell_all_attempts_apart() -> None:
    for name in ("paper", "strict", "ready-made", "autoattack"):
        attempts = [
            attempt for column in protocol_named(name)(setting(sources=("a", "b"))) for attempt in column.attempts
        ]
        assert len({attempt.key for attempt in attempts}) == len(attempts)


@pytest.mark.parametrize("name", ["paper", "strict", "ready-made", "autoattack"])
def test_every_attack_is_made_within_the_bounds(name: str) -> None:
    moved = replace(setting(), attack=replace(ATTACK, bounds=(-1.0, 3.0)))
    attempts = [attempt for column in protocol_named(name)(moved) for attempt in column.attempts]
    assert {attempt.attack.threat.bounds for attempt in attempts} == {(-1.0, 3.0)}


def test_joint_attack_and_square_say_that_they_climb_no_gradient() -> None:
    asked = [
        (attempt.gradient, attempt.attack.climbs)
        for column in protocol_named("strict")(setting())
        for attempt in column.attempts
        if isinstance(attempt.attack, JointAttack | Square)
    ]
    assert asked == [
        (None, "joint iteration of z, u and x, λ = 0.5"),
        *[(None, "nothing: random search")] * len(DEFENSES),
    ]


def test_cost_counts_gradients_and_queries() -> None:
    deq = make_deq().eval()
    subject = DefendedDEQ(deq, DEFENSES)
    through = ThroughSolver(FinalState())
    passes = deq.evaluations(None)
    assert Attempt(ATTACK, through).evaluations(subject) == 2 * through.evaluations(deq) + passes
    square = Square(queries=7, restarts=2)
    assert Attempt(square, against="final").evaluations(subject) == (square.cost.queries + 1) * passes
    assert square.cost.queries == 2 * (7 + 2) + 2
    joint = JointAttack(steps=5, restarts=2)
    assert Attempt(joint).evaluations(subject) == 2 * 5 * 3 + 2 * passes
