"""Protocols: which attacks a defense × attack table has as its columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from robustdeq.attacks import APGD, PGD, Attack, AutoAttack, JointAttack, Square, StoppingPGD, TargetedAPGD
from robustdeq.base.errors import InputError
from robustdeq.deq.gradients import (
    SHINE,
    Ensemble,
    Exact,
    Gradient,
    JacobianFree,
    Phantom,
    SimultaneousAdjoint,
    UnrolledIntermediate,
)
from robustdeq.evaluation.attempt import Attempt


class Family(StrEnum):
    """Whose gradients a column is made of."""

    ADJOINT = "simultaneous adjoint"
    UNROLLED = "unrolled intermediates"
    IMPLICIT = "implicit gradient"
    SOLVER = "through the solver"
    JOINT = "joint iteration"
    BLACK_BOX = "no gradient"
    TRANSFER = "transferred"
    NETWORK = "network"
    BARE = "not adaptive"
    ADAPTIVE = "adaptive"


class Rule(StrEnum):
    """How the attempts of a column make one outcome per sample."""

    STRONGEST = "the attempt that hurts the searched row most"
    EVERY = "a sample stands only where every attempt fails"


class Role(StrEnum):
    """What a column is for."""

    PAPER = "the paper's table"
    BEYOND = "beyond the paper"
    PROBE = "a check of the attacks themselves; it counts in no number"


class Witness(StrEnum):
    """What a column is evidence for, when the attacks themselves are checked (`diagnostics.Evidence`)."""

    NONE = ""
    READY_MADE = "ready-made"
    SINGLE = "single"
    RESTARTED = "restarted"
    QUERIES = "queries"
    ONE_STEP = "one step"
    UNBOUNDED = "unbounded"


@dataclass(frozen=True)
class Column:
    """One attack of the table.

    Args:
        family: whose gradients it climbs.
        reads: what they are taken at, or which attack it is.
        attempts: its attempts, in order.
        rule: how they make one outcome.
        role: what the column is for.
        witness: what it is evidence for.
    """

    family: Family
    reads: str
    attempts: tuple[Attempt, ...]
    rule: Rule = Rule.STRONGEST
    role: Role = Role.PAPER
    witness: Witness = Witness.NONE

    @property
    def name(self) -> str:
        """The column's name, unique in its table."""
        return f"{self.family}, {self.reads}"


@dataclass(frozen=True)
class Estimators:
    """The settings of the estimated gradients that attack the model; the defaults are the paper's.

    Args:
        adjoint_step_size: β of the simultaneous adjoint.
        transpose: B_nᵀ (True) or the paper's B_n (False).
        final: the phantom gradient of the ready-made attack: 9 damped steps.
        exact: the exact gradient of the ready-made attack.
        steps: the k of the unrolled intermediates that are searched.
        dampings: the λ of the unrolled intermediates that are searched.
        ensemble: the k and λ of the unrolled ensemble.

    Raises:
        InputError: there is nothing to search.
    """

    adjoint_step_size: float = 1.0
    transpose: bool = True
    final: Phantom = field(default_factory=lambda: Phantom(steps=9, damping=0.5))
    exact: Exact = field(default_factory=lambda: Exact(max_steps=30, tol=1e-5))
    steps: tuple[int, ...] = (1, 5, 9)
    dampings: tuple[float, ...] = (0.5, 1.0)
    ensemble: tuple[int, float] = (1, 1.0)

    def __post_init__(self) -> None:
        if not self.steps or not self.dampings:
            raise InputError("there are no unrolled intermediates to search; give at least one of steps and dampings.")

    def adjoint(self, state: int | None = None) -> SimultaneousAdjoint:
        """The simultaneous adjoint at one state."""
        return SimultaneousAdjoint(state, self.adjoint_step_size, self.transpose)

    def unrolled_ensemble(self) -> Ensemble:
        """The ensemble of the unrolled intermediates."""
        steps, damping = self.ensemble
        return Ensemble(UnrolledIntermediate(steps=steps, damping=damping))


@dataclass(frozen=True)
class Strict:
    """How hard the strict protocol tries beyond the paper's columns.

    Args:
        steps: of PGD through the solver against each defense.
        restarts: of the same.
        apgd_steps: of each APGD run through the solver.
        targets: how many classes the targeted APGD tries, the likeliest first.
        queries: of Square on the defended logits.
        probe_images: on how many images, at least, the attacks themselves are checked.

    Raises:
        InputError: a count is not positive.
    """

    steps: int = 20
    restarts: int = 5
    apgd_steps: int = 100
    targets: int = 3
    queries: int = 1000
    probe_images: int = 64

    def __post_init__(self) -> None:
        for name in ("steps", "restarts", "apgd_steps", "targets", "queries", "probe_images"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; give 1 or more.")


@dataclass(frozen=True)
class Setting:
    """What the columns of a protocol depend on.

    Args:
        last: N + 1, the index of the final state.
        true_gradients: the gradient through the solver of every row.
        attack: PGD and its threat model.
        estimators: the settings of the estimated gradients.
        strict: how hard the strict protocol tries.
        sources: the names of explicit networks whose adversaries are transferred.
    """

    last: int
    true_gradients: dict[str, Gradient]
    attack: PGD
    estimators: Estimators
    strict: Strict = field(default_factory=Strict)
    sources: tuple[str, ...] = ()

    def climb(self, *gradients: Gradient) -> tuple[Attempt, ...]:
        """The attack on each of these gradients."""
        return tuple(Attempt(self.attack, gradient) for gradient in gradients)

    def against_each(self, attack: Attack, survivors: bool = False) -> tuple[Attempt, ...]:
        """An attack through the solver on every row, judged there."""
        return tuple(
            Attempt(attack, gradient, row, survivors=survivors) for row, gradient in self.true_gradients.items()
        )


def estimated_gradients(last: int, estimators: Estimators) -> dict[tuple[Family, str], tuple[Gradient, ...]]:
    """The gradients behind the paper's six columns: one, or the candidates among which the strongest is searched."""
    intermediate = range(1, last)
    unrolled = [
        UnrolledIntermediate(state, steps, damping)
        for state in intermediate
        for steps in estimators.steps
        for damping in estimators.dampings
    ]
    return {
        (Family.ADJOINT, "final"): (estimators.adjoint(),),
        (Family.ADJOINT, "intermediate"): tuple(estimators.adjoint(n) for n in intermediate),
        (Family.ADJOINT, "ensemble"): (Ensemble(estimators.adjoint()),),
        (Family.UNROLLED, "final"): (estimators.final,),
        (Family.UNROLLED, "intermediate"): tuple(unrolled),
        (Family.UNROLLED, "ensemble"): (estimators.unrolled_ensemble(),),
    }


def paper_columns(setting: Setting) -> list[Column]:
    """The paper's columns (Tables 2, 3, 6), and beside them the gradient through the solver for every defense."""
    return [
        *(
            Column(
                family,
                reads,
                setting.climb(*gradients),
                witness=Witness.READY_MADE if (family, reads) == (Family.UNROLLED, "final") else Witness.NONE,
            )
            for (family, reads), gradients in estimated_gradients(setting.last, setting.estimators).items()
        ),
        *(
            Column(Family.SOLVER, name, setting.climb(gradient), role=Role.BEYOND, witness=Witness.SINGLE)
            for name, gradient in setting.true_gradients.items()
        ),
    ]


def ready_made_columns(setting: Setting) -> list[Column]:
    """The ready-made attacks on the final state (Table 1): PGD, PGD-1000 and Square, for both ways of training."""
    long = replace(setting.attack, steps=1000)
    attack = setting.attack
    square = Square(attack.eps, attack.norm, attack.seed, attack.bounds)
    first = next(iter(setting.true_gradients))
    columns = []
    for name, gradient in (("exact", setting.estimators.exact), ("unrolled", setting.estimators.final)):
        columns += [
            Column(Family.IMPLICIT, f"{name}, {attack.steps} steps", (Attempt(attack, gradient),))
            for attack in (setting.attack, long)
        ]
    return [*columns, Column(Family.BLACK_BOX, "Square", (Attempt(square, against=first),))]


def autoattack_columns(setting: Setting) -> list[Column]:
    """AutoAttack on the paper's surrogates (Table 3), judged as in the paper, and judged on each defense.

    The intermediate states are those that the paper found to hurt most: the adjoint at the state after the first, and
    one unrolled step from the first (§6.5, §6.6).
    """
    estimators, attack = setting.estimators, setting.attack
    surrogates = {
        (Family.ADJOINT, "final"): estimators.adjoint(),
        (Family.ADJOINT, "intermediate"): estimators.adjoint(min(2, setting.last - 1)),
        (Family.ADJOINT, "ensemble"): Ensemble(estimators.adjoint()),
        (Family.UNROLLED, "final"): estimators.final,
        (Family.UNROLLED, "intermediate"): UnrolledIntermediate(1, steps=1, damping=1.0),
        (Family.UNROLLED, "ensemble"): estimators.unrolled_ensemble(),
    }
    auto = AutoAttack(attack.eps, attack.norm, seed=attack.seed, bounds=attack.bounds)
    columns = []
    for (family, reads), gradient in surrogates.items():
        own = (Attempt(auto, gradient),)
        judged = tuple(Attempt(auto, gradient, against=row) for row in setting.true_gradients)
        columns.append(Column(family, f"{reads}, judged on the surrogate", own))
        columns.append(Column(family, f"{reads}, judged on the defense", judged, Rule.EVERY, Role.BEYOND))
    return columns


def strict_columns(setting: Setting) -> list[Column]:
    """The paper's columns, and every stronger attack we know; a sample is robust only if all of them fail.

    The attacks through the solver go against each defense with that defense as the judge; what they find for one is
    tried on all others. PGD with restarts leaves an image at its first success; the costly ones attack what still
    stands.
    """
    strict, attack, estimators = setting.strict, setting.attack, setting.estimators
    within = (attack.eps, attack.norm, attack.seed, attack.bounds)
    joint = JointAttack(attack.eps, attack.step_size, norm=attack.norm, seed=attack.seed, bounds=attack.bounds)
    restarted = StoppingPGD.like(attack, strict.steps, strict.restarts)
    implicit = {"exact": estimators.exact, "SHINE": SHINE(), "Jacobian-free": JacobianFree()}
    others = [
        *(Column(Family.IMPLICIT, name, setting.climb(gradient)) for name, gradient in implicit.items()),
        Column(Family.JOINT, "z, u and x", (Attempt(joint),)),
        *(Column(Family.TRANSFER, name, (Attempt(attack, source=name),)) for name in setting.sources),
        Column(
            Family.SOLVER,
            f"{strict.restarts} × {strict.steps} steps",
            setting.against_each(restarted),
            Rule.EVERY,
            witness=Witness.RESTARTED,
        ),
        *(
            Column(Family.SOLVER, name, setting.against_each(apgd, survivors=True), Rule.EVERY)
            for name, apgd in {
                "APGD": APGD(*within, steps=strict.apgd_steps),
                "targeted APGD": TargetedAPGD(*within, targets=strict.targets, steps=strict.apgd_steps),
            }.items()
        ),
        Column(
            Family.BLACK_BOX,
            "Square",
            tuple(
                Attempt(Square(*within, queries=strict.queries), against=row, survivors=True)
                for row in setting.true_gradients
            ),
            Rule.EVERY,
            witness=Witness.QUERIES,
        ),
    ]
    return [*paper_columns(setting), *(replace(column, role=Role.BEYOND) for column in others), *probes(setting)]


def probes(setting: Setting) -> list[Column]:
    """Attacks that test the attacks through the solver (Athalye et al., ICML 2018): one step, and no bound."""
    attack = setting.attack
    low, high = attack.bounds
    one = replace(attack, steps=1, step_size=attack.eps, random_start=False)
    free = replace(attack, eps=high - low, step_size=(high - low) / 4, norm="Linf")
    return [
        Column(Family.SOLVER, name, setting.against_each(probe), role=Role.PROBE, witness=witness)
        for name, probe, witness in (("one step", one, Witness.ONE_STEP), ("unbounded", free, Witness.UNBOUNDED))
    ]


def network_columns(attack: PGD, row: str) -> list[Column]:
    """PGD and the standard AutoAttack, component by component, on an explicit network.

    Args:
        attack: PGD and its threat model.
        row: the name of the network's row.
    """
    components = AutoAttack(attack.eps, attack.norm, seed=attack.seed, bounds=attack.bounds).components
    return [
        Column(Family.NETWORK, f"PGD, {attack.steps} steps", (Attempt(attack, against=row),)),
        *(
            Column(
                Family.NETWORK,
                name,
                (Attempt(component, against=row, survivors=True),),
                role=Role.BEYOND,
            )
            for name, component in components.items()
        ),
    ]


def reduction_columns(
    attack: PGD, bare: Mapping[str, Gradient], adaptive: Mapping[str, Attack], row: str
) -> list[Column]:
    """Input entropy reduction, attacked as published (the bare model's gradients) and adaptively.

    Args:
        attack: PGD and its threat model.
        bare: the gradients of the bare model, by name.
        adaptive: the attack on each module that differentiates the defense, by the name of the module.
        row: the name of the defended row.
    """
    return [
        *(Column(Family.BARE, name, (Attempt(attack, gradient),)) for name, gradient in bare.items()),
        *(
            Column(Family.ADAPTIVE, name, (Attempt(own, against=row, source=name),), role=Role.BEYOND)
            for name, own in adaptive.items()
        ),
    ]


Protocol = Callable[[Setting], list[Column]]

PROTOCOLS: dict[str, Protocol] = {
    "paper": paper_columns,
    "ready-made": ready_made_columns,
    "autoattack": autoattack_columns,
    "strict": strict_columns,
}


def protocol_named(name: str) -> Protocol:
    """The protocol of that name; raises `InputError` when there is none."""
    if name not in PROTOCOLS:
        raise InputError(f"there is no protocol {name!r}; choose one of {', '.join(map(repr, PROTOCOLS))}.")
    return PROTOCOLS[name]
