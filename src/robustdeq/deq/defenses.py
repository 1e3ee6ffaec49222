"""Defenses: what makes logits from a model; the paper's read states of its trajectory (paper, §5.2).

A state defense reads a per-sample mean of states, z̄ = Σ_n ω_n z_n / Σ_n ω_n with ω_n ∈ {0, 1}, and applies the head to
it: the rule for ω is all that tells one from another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from robustdeq.base.errors import InputError, check_made, require
from robustdeq.base.shapes import Logits, Mask, PerSample, Pixels, State, per_sample
from robustdeq.deq.model import DEQ
from robustdeq.deq.solve import Solution, SolveState


class Defense(ABC):
    """A way to make logits from a model. Define `logits` and `evaluations`; the rest has defaults."""

    title: ClassVar[str] = ""

    @property
    def label(self) -> str:
        """What a table calls it; its title, or else the name of its class."""
        return self.title or type(self).__name__

    def check(self, model: nn.Module) -> None:
        """Raise `InputError` where the defense does not fit the model."""

    @abstractmethod
    def logits(self, model: nn.Module, x: Pixels) -> Logits:
        """The defended logits; where gradients are enabled, their backward pass is the true one.

        Args:
            model: the model.
            x: the inputs.

        Returns:
            The logits, nan for a sample whose solve diverged: it counts as an error of the defense.
        """

    @abstractmethod
    def evaluations(self, model: nn.Module) -> int:
        """The cost of one reading of one sample, in evaluations of f (of an explicit network, in forward passes)."""

    @property
    def judgements(self) -> int:
        """How many readings of an adversary must all be correct; more than one where chance decides."""
        return 1

    @property
    def draws(self) -> int:
        """Of how many readings the logits are averaged that an attack climbs; more than one where chance decides."""
        return 1

    def surrogates(self, defended: Defended) -> dict[str, nn.Module]:
        """The modules x → logits whose gradients an adaptive attack climbs, by what a table calls them.

        Args:
            defended: the model behind this defense, which by default is the only one, or the mean of its draws (EOT).
        """
        if self.draws > 1:
            return {f"the mean of {self.draws} draws of {self.label}": Mean(defended, self.draws)}
        return {f"the true gradient of {self.label}": defended}

    def reader(self, model: nn.Module) -> Reader | None:
        """What gathers its states while the model solves; None for a defense with a forward pass of its own."""
        return None


class Defended(nn.Module):
    """A model x → logits behind a defense: what an attack has to fool, and what an attack library may differentiate.

    Args:
        model: the model.
        defense: the defense.

    Raises:
        InputError: the defense does not fit the model.
    """

    def __init__(self, model: nn.Module, defense: Defense) -> None:
        super().__init__()
        check_made(defense=defense)
        defense.check(model)
        self.deq = model
        self.defense = defense

    def forward(self, x: Pixels) -> Logits:
        """The defended logits; nan for a sample whose solve diverged, which counts as an error of the defense."""
        return self.defense.logits(self.deq, x)


class Mean(nn.Module):
    """The mean of the logits of several readings of a model, and so of their gradients along one cotangent.

    Args:
        model: which draws at random.
        readings: how many.
    """

    def __init__(self, model: nn.Module, readings: int) -> None:
        super().__init__()
        self.model, self.readings = model, readings

    def forward(self, x: Pixels) -> Logits:
        """The mean logits of so many draws."""
        return torch.stack([self.model(x) for _ in range(self.readings)]).mean(dim=0)


def averaged(model: nn.Module) -> nn.Module:
    """The mean of several readings of a `Defended` that is left to chance, of which one alone is mere luck.

    Any other model is returned as it is.
    """
    defense = getattr(model, "defense", None)
    readings = max(getattr(defense, name, 1) for name in ("draws", "judgements"))
    if readings == 1:
        return model
    mean = Mean(model, readings)
    mean.training = getattr(model, "deq", model).training
    return mean


@dataclass(frozen=True)
class AsIs(Defense):
    """No defense: any module x → logits as it is, an explicit network for one."""

    title: ClassVar[str] = "as it is"

    @override
    def check(self, model: nn.Module) -> None:
        require(not isinstance(model, DEQ), "a DEQ as it is hides that a solve diverged; read it by FinalState().")

    @override
    def logits(self, model: nn.Module, x: Pixels) -> Logits:
        return model(x)

    @override
    def evaluations(self, model: nn.Module) -> int:
        return 1


@dataclass(frozen=True)
class Around(Defense):
    """Any module x → logits around a model, as a defense.

    Args:
        make: makes the module from the model, such as its class.
        readings: how often it runs the model for one sample, which tells its cost.
    """

    make: Callable[[nn.Module], nn.Module]
    readings: int = 1

    @property
    @override
    def label(self) -> str:
        return getattr(self.make, "__name__", "") or super().label

    @override
    def logits(self, model: nn.Module, x: Pixels) -> Logits:
        modes = [(part, part.training) for part in model.modules()]
        around = self.make(model).train(model.training)
        for part, training in modes:
            part.training = training
        return around(x)

    @override
    def evaluations(self, model: nn.Module) -> int:
        return self.readings * (model.evaluations(None) if isinstance(model, DEQ) else 1)


class StateDefense(Defense):
    """A rule for the states that are read."""

    @abstractmethod
    def states(self, last: int) -> range:
        """The states that may be read, among 1 … N + 1; `last` is N + 1."""

    def reads(self, visited: Mask) -> Mask:
        """ω_n of one of these states: whether a sample reads it.

        Args:
            visited: whether z_n is a state of its own for each sample, not a repetition of a frozen one.
        """
        return torch.ones_like(visited)

    def until(self, last: int) -> int:
        """The last state that is needed; the solve can return there."""
        return self.states(last)[-1]

    @override
    def check(self, model: nn.Module) -> None:
        deq = as_deq(model)
        deq.check_state(self.until(deq.last_state))

    @override
    def evaluations(self, model: nn.Module) -> int:
        deq = as_deq(model)
        return deq.evaluations(self.until(deq.last_state))

    @override
    def reader(self, model: nn.Module) -> Reader:
        return Reader(self, as_deq(model).last_state)

    @override
    def logits(self, model: nn.Module, x: Pixels) -> Logits:
        if not torch.is_grad_enabled():
            return defended_logits(model, x, [self])[0]
        deq = as_deq(model)
        return self.logits_of(deq, deq.solution(x, until=self.until(deq.last_state), record=True))

    def logits_of(self, deq: DEQ, solution: Solution) -> Logits:
        """The logits that a solve leads to, nan where it diverged, with the backward pass through the solver."""
        reader = Reader.of(self, solution)
        return reader.masked(deq.classify(solution.cell, solution.attached(reader.mean, reader.weights)))


class Reader:
    """The mean of the states that a defense reads, gathered state by state.

    Attributes:
        states: the states it wants.
        lost: the samples that had diverged before one of them could be reached.
    """

    def __init__(self, defense: StateDefense, last: int) -> None:
        self.states = defense.states(last)
        self._defense = defense
        self._weights: dict[int, PerSample] = {}
        self._total: State
        self.lost: Mask

    @classmethod
    @torch.no_grad()
    def of(cls, defense: StateDefense, solution: Solution) -> Reader:
        """A reader that has gone through the states of a kept solve."""
        reader = cls(defense, solution.trajectory.max_steps + 1)
        for state in solution.states(reader.states):
            reader.add(state)
        return reader

    def add(self, seen: SolveState) -> None:
        """Take a state into account, if it is one that the defense reads."""
        if seen.index not in self.states:
            return
        weight = self._defense.reads(seen.visited).to(seen.state.dtype)
        part = seen.state * per_sample(weight, seen.state)
        self._total = self._total + part if self._weights else part
        self.lost = self.lost | seen.lost if self._weights else seen.lost
        self._weights[seen.index] = weight

    @property
    def weights(self) -> dict[int, PerSample]:
        """ω_n / Σ ω of every state that was read."""
        total = torch.stack([*self._weights.values()]).sum(dim=0)
        return {n: weight / total for n, weight in self._weights.items()}

    @property
    def mean(self) -> State:
        """z̄, without graph."""
        return self._total / per_sample(torch.stack([*self._weights.values()]).sum(dim=0), self._total)

    def masked(self, logits: Logits) -> Logits:
        """The logits, nan where a sample had diverged."""
        return logits.masked_fill(self.lost[:, None], torch.nan)


@dataclass(frozen=True)
class FinalState(StateDefense):
    """The model as it is: the final state z_{N+1}."""

    title: ClassVar[str] = "final"

    @override
    def states(self, last: int) -> range:
        return range(last, last + 1)


@dataclass(frozen=True)
class EarlyState(StateDefense):
    """Early exit: the state z_n, n chosen once on a development set.

    Args:
        n: the state, 1 … N + 1.

    Raises:
        InputError: n < 1, or beyond N + 1 when it meets a model.
    """

    n: int

    def __post_init__(self) -> None:
        require(self.n >= 1, f"state {self.n} cannot be an early state; choose n from 1 on.")

    @property
    @override
    def label(self) -> str:
        return f"early (z_{self.n})"

    @override
    def states(self, last: int) -> range:
        return range(self.n, self.n + 1)


@dataclass(frozen=True)
class EnsembleState(StateDefense):
    """The mean of the states a sample visited, z_1 … z_steps and the final one."""

    title: ClassVar[str] = "ensemble"

    @override
    def states(self, last: int) -> range:
        return range(1, last + 1)

    @override
    def reads(self, visited: Mask) -> Mask:
        return visited


@torch.no_grad()
def defended_logits(model: nn.Module, x: Pixels, defenses: Sequence[Defense]) -> list[Logits]:
    """The logits of several defenses; those that read states share one solve, which stops at the last one needed.

    Args:
        model: the model.
        x: the inputs.
        defenses: the defenses.

    Returns:
        The logits of each. They are nan for a sample whose solve diverged before a state that the defense reads.

    Raises:
        InputError: a defense does not fit the model.
    """
    for defense in defenses:
        defense.check(model)
    readers = [defense.reader(model) for defense in defenses]
    reading = [reader for reader in readers if reader is not None]
    if not reading:
        return [defense.logits(model, x) for defense in defenses]
    deq, until = as_deq(model), max(reader.states[-1] for reader in reading)
    solution = deq.solution(x, until=until)
    for state in solution.states(range(min(reader.states[0] for reader in reading), until + 1)):
        for reader in reading:
            reader.add(state)
    return [
        defense.logits(model, x) if reader is None else reader.masked(deq.classify(solution.cell, reader.mean))
        for defense, reader in zip(defenses, readers, strict=True)
    ]


@torch.no_grad()
def state_logits(deq: DEQ, x: Pixels) -> tuple[Float[Tensor, "states batch classes"], Float[Tensor, "states batch"]]:
    """The logits of every state z_1 … z_{N+1}, and their relative residuals (paper, Figs. 2 and 4).

    Args:
        deq: the model.
        x: the inputs.

    Returns:
        The logits (nan for states that a sample had diverged before) and ‖f(z_n) − z_n‖ / ‖f(z_n)‖.
    """
    solution = deq.solution(x)
    trajectory = solution.trajectory
    rows = [
        deq.classify(solution.cell, seen.state).masked_fill(seen.lost[:, None], torch.nan)
        for seen in solution.states(range(1, deq.last_state + 1))
    ]
    value = solution.cell(solution.final)
    size = value.flatten(1).norm(dim=1).clamp_min(torch.finfo(value.dtype).tiny)
    last = (value - solution.final).flatten(1).norm(dim=1) / size
    return torch.stack(rows), torch.cat([trajectory.residuals, last[None]])


def as_deq(model: nn.Module) -> DEQ:
    """The model, where it is a DEQ; raises `InputError` where it has no states to read."""
    if not isinstance(model, DEQ):
        raise InputError(f"a {type(model).__name__} has no states to read; measure it as it is, with AsIs().")
    return model


def as_deployed(model: nn.Module) -> Defense:
    """How a model is read where no defense is meant: a DEQ by its final state, any other module as it is."""
    return FinalState() if isinstance(model, DEQ) else AsIs()
