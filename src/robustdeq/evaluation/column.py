"""What a defense × attack table is made of: a row per defense, a column per attack, and the attempts behind it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import Any

from torch import nn

from robustdeq.attacks import Attack, StraightThrough
from robustdeq.attacks.straight_through import Operation, operations_without_derivative
from robustdeq.base.errors import InputError
from robustdeq.base.provenance import describe, digest
from robustdeq.base.shapes import Pixels
from robustdeq.deq import Defended, Defense
from robustdeq.deq.defenses import as_deq
from robustdeq.deq.gradients import Gradient, Surrogate


@dataclass(frozen=True, eq=False)
class Climbed:
    """A module whose gradient an attack climbs.

    Attributes:
        module: x → logits.
        label: in words, what is climbed.
        description: what tells it from all others, in plain values.
        evaluations: the cost of one gradient, in evaluations of f (of an explicit network, in forward passes).
    """

    module: nn.Module
    label: str
    description: Any
    evaluations: int


def estimated(model: nn.Module, gradient: Gradient) -> Climbed:
    """A DEQ with that gradient as its backward pass.

    Raises:
        InputError: the model is no DEQ, or lacks a state that the gradient asks for.
    """
    deq = as_deq(model)
    return Climbed(Surrogate(deq, gradient), gradient.label, describe(gradient), gradient.evaluations(deq))


def transferred(name: str, network: nn.Module) -> Climbed:
    """Another network, whose adversaries are tried on the model."""
    return Climbed(network, f"the gradient of {name}", describe(network), 1)


class Row:
    """One row of the table: a model behind one defense.

    Attributes:
        cost: of judging one image, in evaluations of f.
        judge: the module x → logits that has to be fooled.
        surrogates: what an adaptive attack climbs.
        straight: what else it climbs where operations have no useful derivative: the same, straight through them.
        operations: these operations.
        unwatched: why they could not be looked for; empty where they could.
        logits_alone: the same module for an attack that asks for logits and climbs nothing.

    Args:
        id: names it among the rows.
        model: what is defended, in eval mode.
        defense: the defense.
        x: an image on which operations without a derivative are looked for; None looks for none.

    Raises:
        InputError: the defense does not fit the model.
    """

    def __init__(self, id: str, model: nn.Module, defense: Defense, x: Pixels | None = None) -> None:
        self.id, self.defense, self.cost = id, defense, defense.evaluations(model)
        self.judge = Defended(model, defense)
        own, price = describe(defense), 3 * self.cost * defense.draws

        def climbed(name: str, module: nn.Module) -> Climbed:
            return Climbed(module, name, {"defense": own, "surrogate": name}, price)

        modules = defense.surrogates(self.judge)
        self.surrogates = tuple(climbed(name, module) for name, module in modules.items())
        self.operations: tuple[Operation, ...] = ()
        self.unwatched = ""
        try:
            self.operations = () if x is None else operations_without_derivative(self.judge, x)
        except InputError as error:
            self.unwatched = str(error)
        named = ", ".join(map(str, self.operations))
        straight = modules if self.operations else {}
        self.straight = tuple(
            climbed(f"{name}, straight through {named}", StraightThrough(module)) for name, module in straight.items()
        )
        self.logits_alone = Climbed(self.judge, "nothing: it asks for logits", {"defense": own}, 0)


@dataclass(frozen=True, eq=False)
class Attempt:
    """One way to make adversaries.

    Args:
        attack: what climbs.
        climbs: what is climbed.
        against: the row that decides, while the attack runs, what has succeeded; None for what is climbed itself.
        survivors: attack only the images that have withstood everything so far behind any defense. What has fallen
            stays fallen, in every row, so that the outcome includes all that went before.
    """

    attack: Attack
    climbs: Climbed
    against: Row | None = None
    survivors: bool = False

    @property
    def description(self) -> dict[str, Any]:
        """Everything that decides its outcome on a model and its rows, in plain values."""
        return {
            "attack": describe(self.attack),
            "climbs": self.climbs.description,
            "against": None if self.against is None else self.against.id,
            "survivors": self.survivors,
        }

    @property
    def label(self) -> str:
        """In words, what it climbs."""
        return self.climbs.label if self.attack.climbs is None else self.attack.climbs

    @cached_property
    def key(self) -> str:
        """A short name that no other attempt has."""
        return digest(self.description)

    def evaluations(self, judging: float) -> float:
        """Its cost per image in evaluations of f, at most, where judging one image costs `judging`."""
        return self.attack.cost.price(self.climbs.evaluations, judging) + judging


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
        curve: names its adversaries among those whose states are drawn along the trajectory; those of the first
            ready-made attack are in any case.
        followed: names for its attempts where their adversaries are followed along the trajectory (Fig. 4).
        missing: why it has no attempts, where the model lacks what they need; the table says so.
    """

    id: str
    label: str
    attempts: tuple[Attempt, ...]
    rule: Rule = Rule.STRONGEST
    role: Role = Role.PAPER
    ready_made: bool = False
    curve: str = ""
    followed: tuple[str, ...] = ()
    missing: str = ""

    def cumulative(self) -> Column:
        """The same attempts, all of which count, on the images alone that stand after all columns before."""
        attempts = tuple(replace(attempt, survivors=True) for attempt in self.attempts)
        return replace(self, attempts=attempts, rule=Rule.EVERY, followed=(), ready_made=False)

    def against(self, x: Pixels, classes: int) -> Column:
        """The column on such images and a model of so many classes: without attempts where one of them cannot be made.

        Args:
            x: at least one image.
            classes: how many classes the model tells apart.
        """
        try:
            for attempt in self.attempts:
                attempt.attack.check(x, classes)
        except InputError as error:
            return replace(self, attempts=(), missing=str(error))
        return self
