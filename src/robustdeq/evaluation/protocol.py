"""Protocols: which gradients a defense × attack table has as its columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from robustdeq.defenses import Defense
from robustdeq.errors import InputError
from robustdeq.gradients import (
    Ensemble,
    Gradient,
    Phantom,
    SimultaneousAdjoint,
    ThroughSolver,
    UnrolledIntermediate,
)


class Family(StrEnum):
    """Whose gradients a column is made of."""

    ADJOINT = "simultaneous adjoint"
    UNROLLED = "unrolled intermediates"
    SOLVER = "through the solver"


@dataclass(frozen=True)
class Column:
    """One attack of the table.

    Args:
        family: whose gradients it climbs.
        reads: what they are taken at: `"final"`, `"intermediate"`, `"ensemble"` or `"early"`.
        candidates: the gradient, or several of which the one that hurts the early-state defense most is the column.
    """

    family: Family
    reads: str
    candidates: tuple[Gradient, ...]

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
        steps: the k of the unrolled intermediates that are searched.
        dampings: the λ of the unrolled intermediates that are searched.
        ensemble: the k and λ of the unrolled ensemble.

    Raises:
        InputError: there is nothing to search.
    """

    adjoint_step_size: float = 1.0
    transpose: bool = True
    final: Phantom = field(default_factory=lambda: Phantom(steps=9, damping=0.5))
    steps: tuple[int, ...] = (1, 5, 9)
    dampings: tuple[float, ...] = (0.5, 1.0)
    ensemble: tuple[int, float] = (1, 1.0)

    def __post_init__(self) -> None:
        if not self.steps or not self.dampings:
            raise InputError("there are no unrolled intermediates to search; give at least one of steps and dampings.")

    def adjoint(self, state: int | None = None) -> SimultaneousAdjoint:
        """The simultaneous adjoint at one state."""
        return SimultaneousAdjoint(state, self.adjoint_step_size, self.transpose)


def paper_columns(last: int, defenses: dict[str, Defense], estimators: Estimators) -> list[Column]:
    """The paper's columns (Tables 2, 3, 6), and beside them the gradient through the solver for every defense.

    Args:
        last: N + 1, the index of the final state.
        defenses: the defenses of the table.
        estimators: the settings of the estimated gradients.
    """
    intermediate = range(1, last)
    unrolled = [
        UnrolledIntermediate(state, steps, damping)
        for state in intermediate
        for steps in estimators.steps
        for damping in estimators.dampings
    ]
    ensemble_steps, ensemble_damping = estimators.ensemble
    return [
        Column(Family.ADJOINT, "final", (estimators.adjoint(),)),
        Column(Family.ADJOINT, "intermediate", tuple(estimators.adjoint(n) for n in intermediate)),
        Column(Family.ADJOINT, "ensemble", (Ensemble(estimators.adjoint()),)),
        Column(Family.UNROLLED, "final", (estimators.final,)),
        Column(Family.UNROLLED, "intermediate", tuple(unrolled)),
        Column(
            Family.UNROLLED,
            "ensemble",
            (Ensemble(UnrolledIntermediate(steps=ensemble_steps, damping=ensemble_damping)),),
        ),
        *(Column(Family.SOLVER, name, (ThroughSolver(defense),)) for name, defense in defenses.items()),
    ]


Protocol = Callable[[int, dict[str, Defense], Estimators], list[Column]]

PROTOCOLS: dict[str, Protocol] = {"paper": paper_columns}


def protocol_named(name: str) -> Protocol:
    """The protocol of that name; raises `InputError` when there is none."""
    if name not in PROTOCOLS:
        raise InputError(f"there is no protocol {name!r}; choose one of {', '.join(map(repr, PROTOCOLS))}.")
    return PROTOCOLS[name]
