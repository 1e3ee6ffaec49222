"""Protocols: which attacks a defense × attack table has as its columns, and how hard they try."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import nn
from typing_extensions import override

from robustdeq.attacks import (
    PGD,
    Attack,
    AutoAttack,
    Cascade,
    ContinuedPGD,
    JointAttack,
    MomentumPGD,
    MultiTargeted,
    Square,
    Stages,
    StoppingPGD,
)
from robustdeq.base.errors import InputError, check_counts, check_made, require
from robustdeq.base.provenance import describe
from robustdeq.deq import DEQ, AsIs, Defense, EarlyState, EnsembleState, EntropyReduction, FinalState
from robustdeq.deq.defenses import as_deq
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
from robustdeq.evaluation.column import Attempt, Climbed, Column, Role, Row, Rule, estimated, transferred
from robustdeq.evaluation.probes import PROBES, Probe

Gradients = Mapping[str, Gradient]


@dataclass(frozen=True)
class Candidates:
    """The gradients behind one of the paper's columns: one, or those among which the strongest is searched.

    Attributes:
        id: of the column.
        label: of the column.
        gradients: in the order of the search.
        followed: names for them where their adversaries are followed along the trajectory (Fig. 4).
    """

    id: str
    label: str
    gradients: tuple[Gradient, ...]
    followed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Estimators:
    """The settings of the estimated gradients that attack the model; the defaults are the paper's.

    Args:
        adjoint_step_size: β of the simultaneous adjoint.
        transpose: B_nᵀ (True) or the paper's B_n (False).
        final: the phantom gradient of the ready-made attack: 9 damped steps.
        exact: the exact gradient of the ready-made attack, on a model that has no exact gradient of its own.
        steps: the k of the unrolled intermediates that are searched.
        dampings: the λ of the unrolled intermediates that are searched.
        ensemble: the k and λ of the unrolled ensemble.
        states: at how many intermediate states at most, evenly spread from the first to the last, gradients are
            searched; None for all.

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
    states: int | None = 8

    def __post_init__(self) -> None:
        if not self.steps or not self.dampings:
            raise InputError("there are no unrolled intermediates to search; give at least one of steps and dampings.")
        check_counts(states=1 if self.states is None else self.states)

    def adjoint(self, state: int | None = None) -> SimultaneousAdjoint:
        """The simultaneous adjoint at one state."""
        return SimultaneousAdjoint(state, self.adjoint_step_size, self.transpose)

    def exact_of(self, deq: DEQ) -> Exact:
        """The model's own exact gradient, with its own backward steps, or else the one given here (Table 1)."""
        return deq.gradient if isinstance(deq.gradient, Exact) else self.exact

    def ready_made(self, deq: DEQ) -> Gradient:
        """The ready-made attack's gradient: exact for a model that was trained by the exact one, else unrolled."""
        return deq.gradient if isinstance(deq.gradient, Exact) else self.final

    def candidates(self, last: int) -> tuple[Candidates, ...]:
        """The gradients behind the paper's six columns, for a model whose final state is z_last.

        Unrolled intermediates are searched in both readings: from z_n, as written, and from f(z_n), as released.
        """
        count = last - 1 if self.states is None else self.states
        intermediate = dict.fromkeys(round(n) for n in torch.linspace(1, last - 1, min(count, last - 1)).tolist())
        unrolled = tuple(
            UnrolledIntermediate(state, steps, damping, from_image)
            for state in intermediate
            for steps in self.steps
            for damping in self.dampings
            for from_image in (False, True)
        )
        adjoints, followed = tuple(map(self.adjoint, intermediate)), tuple(f"u_{n}" for n in intermediate)
        together = UnrolledIntermediate(None, *self.ensemble)
        return (
            Candidates("adjoint-final", "simultaneous adjoint, final", (self.adjoint(),), (f"u_{last}",)),
            Candidates("adjoint-intermediate", "simultaneous adjoint, intermediate", adjoints, followed),
            Candidates("adjoint-ensemble", "simultaneous adjoint, ensemble", (Ensemble(self.adjoint()),)),
            Candidates("unrolled-final", "unrolled intermediates, final", (self.final,)),
            Candidates("unrolled-intermediate", "unrolled intermediates, intermediate", unrolled),
            Candidates("unrolled-ensemble", "unrolled intermediates, ensemble", (Ensemble(together),)),
        )


@dataclass(frozen=True)
class Protocol(ABC):
    """Which attacks a table has as its columns.

    Args:
        attack: what climbs, and the threat model of all columns.

    Raises:
        InputError: the attack is no PGD.
    """

    name: ClassVar[str]
    reads_early: ClassVar[bool] = True
    """Whether the rows, where none are given, include the early state."""

    attack: PGD = field(default_factory=PGD)

    def __post_init__(self) -> None:
        check_made(attack=self.attack)
        require(
            isinstance(self.attack, PGD),
            f"attack is {type(self.attack).__name__}; a protocol climbs with PGD: give others as `attacks` beside it.",
        )

    @abstractmethod
    def columns(self, model: nn.Module, rows: Sequence[Row], gradients: Gradients) -> list[Column]:
        """The columns, in the order in which they are made.

        Args:
            model: what is attacked.
            rows: the model behind each of its defenses.
            gradients: further gradients to climb, a column each, by name.

        Raises:
            InputError: the model is not of the kind that is attacked so.
        """

    def defenses(self, early: int | None) -> dict[str, Defense]:
        """The rows, where none are given: by default the paper's (§5.2), with z_early where that is known."""
        read = {} if early is None else {"early": EarlyState(early)}
        return {"final": FinalState(), **read, "ensemble": EnsembleState()}

    def titles(self, rows: Sequence[Row]) -> tuple[str, ...]:
        """What the table calls these rows."""
        return tuple(row.defense.label for row in rows)

    @property
    def probed(self) -> int:
        """On how many images, at least, columns and probes are made that only check the attacks."""
        return 0

    def probes(self) -> tuple[Probe, ...]:
        """What is looked at there: everything, where there are such images."""
        return tuple(kind(self.attack) for kind in PROBES.values()) if self.probed else ()

    def settings(self) -> dict[str, Any]:
        """Its name and settings, in plain values."""
        return {"protocol": self.name} | {name: said for name, said in describe(self).items() if name != "class"}

    def climbing(self, model: nn.Module, gradients: Gradients) -> list[Column]:
        """One column per gradient, beyond the paper."""
        return [beyond(f"own-{name}", name, climb(self.attack, model, g)) for name, g in gradients.items()]


def beyond(id: str, label: str, attempts: tuple[Attempt, ...], rule: Rule = Rule.STRONGEST) -> Column:
    """A column that the paper does not have."""
    return Column(id, label, attempts, rule, Role.BEYOND)


def where_there(made: Callable[[], tuple[Attempt, ...]], id: str, label: str, **settings: Any) -> Column:
    """The column of some attempts, or where the model lacks what they climb, of none and why.

    Args:
        made: makes the attempts, or raises `InputError`.
        id: of the column.
        label: of the column.
        settings: further ones of it.
    """
    try:
        return Column(id, label, made(), **settings)
    except InputError as error:
        return Column(id, label, (), missing=str(error), **settings)


def climb(attack: Attack, model: nn.Module, *gradients: Gradient) -> tuple[Attempt, ...]:
    """An attack on each of these gradients of a DEQ, judged on the state that it reads."""
    return tuple(Attempt(attack, estimated(model, gradient)) for gradient in gradients)


def judged(attack: Attack, model: nn.Module, gradient: Gradient, rows: Sequence[Row]) -> tuple[Attempt, ...]:
    """An attack on a gradient of a DEQ, judged by a row, for every row."""
    return tuple(Attempt(attack, estimated(model, gradient), row) for row in rows)


def adaptive(attack: Attack, rows: Sequence[Row], survivors: bool = False) -> tuple[Attempt, ...]:
    """An attack on everything that stands for a row, judged by that row, for every row."""
    return tuple(Attempt(attack, climbed, row, survivors) for row in rows for climbed in row.surrogates)


def straight_through(attack: Attack, rows: Sequence[Row], survivors: bool = False) -> tuple[Attempt, ...]:
    """An attack straight through the operations of a row that have no derivative, judged by it, for every row."""
    return tuple(Attempt(attack, climbed, row, survivors) for row in rows for climbed in row.straight)


def everything(attack: Attack, rows: Sequence[Row], survivors: bool = False) -> tuple[Attempt, ...]:
    """An attack on all that stands for a row, as it is and straight through, judged by that row, for every row."""
    return (*adaptive(attack, rows, survivors), *straight_through(attack, rows, survivors))


def beside_derivatives(attack: Attack, rows: Sequence[Row]) -> list[Column]:
    """The column of an attack straight through what has no derivative; none where all has one."""
    attempts = straight_through(attack, rows)
    label = "straight through what has no derivative"
    return [beyond("straight-through", label, attempts, Rule.EVERY)] if attempts else []


def querying(attack: Attack, rows: Sequence[Row], survivors: bool = False) -> tuple[Attempt, ...]:
    """An attack that climbs nothing, on the logits of every row."""
    return tuple(Attempt(attack, row.logits_alone, row, survivors) for row in rows)


@dataclass(frozen=True)
class Estimating(Protocol):
    """A protocol that climbs estimated gradients.

    Args:
        estimators: their settings.
    """

    estimators: Estimators = field(default_factory=Estimators)


@dataclass(frozen=True)
class Paper(Estimating):
    """The paper's six columns (Tables 2, 3, 6), and beside them the true gradient of every defense.

    A model that was trained by the exact gradient has a column for that, which is then its ready-made attack.
    """

    name: ClassVar[str] = "paper"

    @override
    def columns(self, model: nn.Module, rows: Sequence[Row], gradients: Gradients) -> list[Column]:
        deq = as_deq(model)
        candidates, own = self.estimators.candidates(deq.last_state), self.estimators.ready_made(deq)
        exact = () if own == self.estimators.final else (Candidates("exact-final", "implicit gradient, exact", (own,)),)
        return [
            *(
                where_there(
                    partial(climb, self.attack, model, *column.gradients),
                    column.id,
                    column.label,
                    role=Role.PAPER if column in candidates else Role.BEYOND,
                    ready_made=column.gradients == (own,),
                    followed=column.followed,
                )
                for column in (*candidates, *exact)
            ),
            *(
                beyond(f"through-{row.id}", f"through the solver, {row.id}", adaptive(self.attack, [row]), Rule.EVERY)
                for row in rows
            ),
            *beside_derivatives(self.attack, rows),
            *self.climbing(model, gradients),
        ]


@dataclass(frozen=True)
class Strict(Paper):
    """The paper's columns, and every stronger attack we know; a sample is robust only if all of them fail.

    The adaptive attacks go against each defense with that defense as the judge; what they find for one is tried on all
    others. PGD with restarts leaves an image at its first success; the costly ones attack what still stands. Targeted
    APGD climbs first the margin of probabilities, which ranks first at equal price (`robustdeq reproduce
    attack-order`), then that of logits, whose gradient no confidence silences. It climbs them along the ready-made
    gradient too, on all images, so that what its losses do shows apart from the gradient.

    Args:
        steps: of adaptive PGD against each defense.
        restarts: of the same.
        apgd_steps: of each run of Auto-PGD (`MomentumPGD`); of the targeted one, half of them by each of its losses.
        targets: how many classes the targeted one tries, the likeliest first.
        queries: of Square on the defended logits.
        probe_images: on how many images, at least, the attacks themselves are checked.
        sources: explicit networks whose adversaries are tried on the model, by name.

    Raises:
        InputError: a count is not positive.
    """

    name: ClassVar[str] = "strict"

    steps: int = 20
    restarts: int = 5
    apgd_steps: int = 100
    targets: int = 3
    queries: int = 1000
    probe_images: int = 64
    sources: Mapping[str, nn.Module] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        counts = ("steps", "restarts", "apgd_steps", "targets", "queries", "probe_images")
        check_counts(**{name: getattr(self, name) for name in counts})

    @property
    @override
    def probed(self) -> int:
        return self.probe_images

    @override
    def columns(self, model: nn.Module, rows: Sequence[Row], gradients: Gradients) -> list[Column]:
        attack, deq = self.attack, as_deq(model)
        own = self.estimators.ready_made(deq)
        joint = JointAttack(attack.eps, attack.step_size, norm=attack.norm, seed=attack.seed, bounds=attack.bounds)
        bare = Climbed(model, "the model", "the model", 0)
        implicit = {"exact": self.estimators.exact_of(deq), "SHINE": SHINE(), "Jacobian-free": JacobianFree()}
        span = attack.threat.span
        one = replace(attack, steps=1, step_size=attack.eps or 1.0, random_start=False, restarts=1)
        free = replace(attack, eps=span, step_size=span / 4 or 1.0, norm="Linf")
        restarted = StoppingPGD.like(attack, self.steps, self.restarts)
        apgd = MomentumPGD.like(attack, self.apgd_steps, 1)
        half = replace(apgd, steps=max(1, self.apgd_steps // 2))
        targeted = MultiTargeted(half, self.targets, ("targeted_probability_margin", "targeted_margin"))
        square = Square(attack.eps, attack.norm, attack.seed, attack.bounds, queries=self.queries)
        runs = f"{self.restarts} × {self.steps} steps"
        return [
            *super().columns(model, rows, gradients),
            *(
                where_there(
                    partial(climb, attack, model, gradient),
                    f"implicit-{name}",
                    f"implicit gradient, {name}",
                    role=Role.BEYOND,
                )
                for name, gradient in implicit.items()
                if gradient != own
            ),
            beyond("joint", "joint iteration, z, u and x", (Attempt(joint, bare),)),
            *(
                beyond(f"transfer-{name}", f"transferred, {name}", (Attempt(attack, transferred(name, network)),))
                for name, network in self.sources.items()
            ),
            beyond(
                "ready-made-apgd-t",
                "ready-made, targeted APGD",
                judged(targeted, model, own, rows),
                Rule.EVERY,
            ),
            beyond("restarts", f"through the solver, {runs}", everything(restarted, rows), Rule.EVERY),
            beyond("apgd-t", "through the solver, targeted APGD", everything(targeted, rows, True), Rule.EVERY),
            beyond("apgd", "through the solver, APGD", everything(apgd, rows, True), Rule.EVERY),
            beyond("square", "no gradient, Square", querying(square, rows, True), Rule.EVERY),
            # These test the adaptive attacks (Athalye et al., ICML 2018): one step, and no bound.
            Column("one-step", "one step", adaptive(one, rows), role=Role.PROBE),
            Column("unbounded", "unbounded", everything(free, rows), role=Role.OUTSIDE),
        ]


@dataclass(frozen=True)
class WorstCase(Strict):
    """The attacks of `Strict`, those through the solver first, each on the images that no other has broken.

    What counts is the worst case: it is that of `Strict`, image by image, at a lower price. The ready-made
    attack and PGD through the solver are made on all images, so that it shows what they would have said; every other
    column includes all before it, and says nothing of its attack alone. Settings as for `Strict`.
    """

    name: ClassVar[str] = "worst-case"

    @override
    def columns(self, model: nn.Module, rows: Sequence[Row], gradients: Gradients) -> list[Column]:
        columns = [
            replace(column, role=Role.BEYOND) if column.role.shown else column
            for column in super().columns(model, rows, gradients)
        ]
        ordered = sorted(columns, key=lambda column: (not column.role.shown, _rank(column.id)))
        return [
            column.cumulative() if column.role.shown and _rank(column.id) >= _WHOLE else column for column in ordered
        ]


_ORDER = (
    "unrolled-final",
    "exact-final",
    "through-",
    "straight-",
    "apgd",
    "restarts",
    "implicit-",
    "joint",
    "ready-made-apgd-t",
)
"""The beginnings of the names of columns, in the order in which they are made."""
_WHOLE = 4
"""How many of these attack all images."""


def _rank(id: str) -> int:
    """The place of a column in the order of `WorstCase`; those that it does not name come last, Square after them."""
    if id == "square":
        return len(_ORDER) + 1
    return next((rank for rank, name in enumerate(_ORDER) if id.startswith(name)), len(_ORDER))


@dataclass(frozen=True)
class ReadyMade(Estimating):
    """The ready-made attacks (Table 1): PGD, PGD-1000 and Square, for both ways of training.

    Args:
        long_steps: of the long PGD run.
        queries: of Square.
    """

    name: ClassVar[str] = "ready-made"

    long_steps: int = 1000
    queries: int = 5000

    @override
    def columns(self, model: nn.Module, rows: Sequence[Row], gradients: Gradients) -> list[Column]:
        attack, deq = self.attack, as_deq(model)
        climbed = {"exact": self.estimators.exact_of(deq), "unrolled": self.estimators.final}
        square = Square(attack.eps, attack.norm, attack.seed, attack.bounds, queries=self.queries)
        return [
            *(
                Column(
                    f"{name}-{length}",
                    f"implicit gradient, {name}, {run.steps} steps",
                    climb(run, model, gradient),
                    ready_made=length == "short" and gradient == self.estimators.ready_made(deq),
                )
                for name, gradient in climbed.items()
                for length, run in (("short", attack), ("long", replace(attack, steps=self.long_steps)))
            ),
            Column("square", "no gradient, Square", querying(square, rows[:1])),
            *self.climbing(model, gradients),
        ]


@dataclass(frozen=True)
class AutoAttackTable(Estimating):
    """AutoAttack on the paper's surrogates (Table 3), judged as in the paper, and judged on each defense.

    The intermediate states are those that the paper found to hurt its early state most (§6.4 and Fig. 3): the adjoint
    u_4, and one undamped unrolled step from z_1, in the reading of the released code.
    """

    name: ClassVar[str] = "autoattack"

    @override
    def columns(self, model: nn.Module, rows: Sequence[Row], gradients: Gradients) -> list[Column]:
        deq = as_deq(model)
        last, ready_made = deq.last_state, self.estimators.ready_made(deq)
        strongest = {
            "adjoint-intermediate": self.estimators.adjoint(min(4, last - 1)),
            "unrolled-intermediate": UnrolledIntermediate(1, steps=1, damping=1.0, from_image=True),
        }
        attack = self.attack
        auto = AutoAttack(attack.eps, attack.norm, seed=attack.seed, bounds=attack.bounds)
        columns = []
        for column in self.estimators.candidates(last):
            climbed = strongest.get(column.id, column.gradients[0])
            label = f"{column.label}, judged on the"
            own, defended = partial(climb, auto, model, climbed), partial(judged, auto, model, climbed, rows)
            settings = {"rule": Rule.EVERY, "role": Role.BEYOND}
            columns += [
                where_there(own, column.id, f"{label} surrogate", ready_made=column.gradients == (ready_made,)),
                where_there(defended, f"{column.id}-judged", f"{label} defense", **settings),
            ]
        return [*columns, *self.climbing(model, gradients)]


@dataclass(frozen=True)
class Network(Protocol):
    """PGD, and the standard AutoAttack, component by component, on what withstands it: for an explicit network.

    Args:
        cascade: the attacks on what withstands PGD; the standard AutoAttack in the threat model of PGD by default.
    """

    name: ClassVar[str] = "network"
    reads_early: ClassVar[bool] = False

    cascade: Cascade | None = None

    @override
    def defenses(self, early: int | None) -> dict[str, Defense]:
        return {"network": AsIs()}

    @override
    def columns(self, model: nn.Module, rows: Sequence[Row], gradients: Gradients) -> list[Column]:
        attack, cascade = self.attack, self.cascade
        if cascade is None:
            standard = AutoAttack(attack.eps, attack.norm, seed=attack.seed, bounds=attack.bounds)
            cascade = Cascade(tuple(standard.components.values()), attack.seed)
        pgd = adaptive(attack, rows)
        return [
            Column("pgd", f"network, {attack.label}", pgd, Rule.EVERY, ready_made=True),
            *beside_derivatives(attack, rows),
            *(
                beyond(part.label, f"network, {part.label}", everything(part, rows, survivors=True), Rule.EVERY)
                for part in (replace(part, seed=cascade.seed) for part in cascade.components)
            ),
            *self.climbing(model, gradients),
        ]


@dataclass(frozen=True)
class Adaptive(Estimating):
    """A defense with a forward pass of its own, attacked as if it were not there, and adaptively.

    The last of what stands for the defense is climbed once more, from where the attack on the bare model ended.

    Args:
        defense: the defense.
    """

    name: ClassVar[str] = "entropy"
    reads_early: ClassVar[bool] = False

    defense: Defense = field(default_factory=EntropyReduction)

    @override
    def defenses(self, early: int | None) -> dict[str, Defense]:
        return {"undefended": FinalState(), self.defense.label: self.defense}

    @override
    def titles(self, rows: Sequence[Row]) -> tuple[str, ...]:
        return tuple(row.id for row in rows)

    @override
    def columns(self, model: nn.Module, rows: Sequence[Row], gradients: Gradients) -> list[Column]:
        attack, adaptively = self.attack, adaptive(self.attack, rows[1:])
        own = adaptive(attack, [row for row in rows[1:] if row.defense == self.defense])
        if not own:
            raise InputError(
                f"the rows are {', '.join(row.id for row in rows)}, and this protocol takes the bare model first and "
                f"{self.defense.label} after it; give them so, or another defense to the protocol."
            )
        bare, last = rows[0].surrogates[0], own[-1]

        def whose(attempt: Attempt) -> list[str]:
            """The row that it is made against, where there are several."""
            return [attempt.against.id] if attempt.against and len(rows) > 2 else []

        ready_made = climb(attack, model, self.estimators.ready_made(as_deq(model)))
        continued = ContinuedPGD(**attack.settings_for(ContinuedPGD))
        stages = replace(
            last.climbs,
            module=Stages([bare.module, last.climbs.module]),
            label=f"{last.climbs.label}, from the bare model's adversaries",
            description=[bare.description, last.climbs.description],
        )
        return [
            Column("bare-ready-made", "not adaptive, ready-made", ready_made, ready_made=True),
            Column("bare-through", "not adaptive, through the solver", (Attempt(attack, bare),)),
            *(
                beyond(f"adaptive-{i}", ", ".join(["adaptive", *whose(attempt), attempt.climbs.label]), (attempt,))
                for i, attempt in enumerate((*adaptively, replace(last, attack=continued, climbs=stages)))
            ),
            *self.climbing(model, gradients),
        ]


@dataclass(frozen=True)
class Chosen(Protocol):
    """Attacks of one's choice: a column per attack and gradient, by label.

    Args:
        attacks: what climbs and what is climbed; None climbs the first row, which also judges.
    """

    name: ClassVar[str] = "chosen"

    attacks: Mapping[str, tuple[Attack, Gradient | None]] = field(default_factory=dict)

    @override
    def columns(self, model: nn.Module, rows: Sequence[Row], gradients: Gradients) -> list[Column]:
        return [
            *(
                Column(name, name, adaptive(attack, rows[:1]) if g is None else climb(attack, model, g))
                for name, (attack, g) in self.attacks.items()
            ),
            *self.climbing(model, gradients),
        ]
