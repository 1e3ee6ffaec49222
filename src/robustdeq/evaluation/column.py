"""Columns: the attacks of a defense × attack table, each made of one or several attempts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from robustdeq.evaluation.attempt import Attempt


class Rule(StrEnum):
    """How the attempts of a column make one outcome per sample."""

    STRONGEST = "the attempt that hurts the searched row most"
    EVERY = "a sample stands only where every attempt fails"


class Role(StrEnum):
    """What a column is for."""

    PAPER = "paper"
    BEYOND = "beyond the paper"
    PROBE = "probe"
    OUTSIDE = "probe outside the ball"

    @property
    def shown(self) -> bool:
        """Whether the table has it; the others only check the attacks, on the first images."""
        return self in (Role.PAPER, Role.BEYOND)

    @property
    def counts(self) -> bool:
        """Whether its adversaries count in the worst case: all do that lie within the threat model."""
        return self is not Role.OUTSIDE


@dataclass(frozen=True, eq=False)
class Column:
    """One attack of the table.

    Args:
        id: names it among the columns.
        label: what the table shows.
        attempts: its attempts, in order.
        rule: how they make one outcome.
        role: what the column is for.
        ready_made: whether it is the ready-made attack, which needs no thought about the solver.
        followed: names for its attempts where their adversaries are followed along the trajectory (Fig. 4).
    """

    id: str
    label: str
    attempts: tuple[Attempt, ...]
    rule: Rule = Rule.STRONGEST
    role: Role = Role.PAPER
    ready_made: bool = False
    followed: tuple[str, ...] = ()
