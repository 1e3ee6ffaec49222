"""The gradient through the solver: the derivative of what a defense computes, by reverse mode (`Solution.attached`).

Where the other gradients estimate the derivative of a fixed point, this one is the derivative of the program.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from typing_extensions import override

from robustdeq.base.errors import check_made
from robustdeq.base.shapes import Logits, Pixels, State
from robustdeq.deq.defenses import FinalState, Reader, StateDefense
from robustdeq.deq.model import DEQ, StateGradient
from robustdeq.deq.solve import Solution
from robustdeq.deq.tail import Unroll


@dataclass(frozen=True)
class ThroughSolver(StateGradient):
    """The exact gradient of what a defense computes.

    Args:
        defense: the read-out.
        checkpoint: evaluate f again in the reverse sweep instead of keeping its graphs: memory is then one graph of f
            plus the states, for one more evaluation of f per step, with the weights and the mode that the model has
            when the sweep runs (so not under `torch.func.functional_call`).

    Raises:
        InputError: the read-out is a class.
    """

    defense: StateDefense = field(default_factory=FinalState)
    checkpoint: bool = False

    def __post_init__(self) -> None:
        check_made(defense=self.defense)

    @property
    @override
    def label(self) -> str:
        return f"through the solver, {self.defense.label}"

    @override
    def true_of(self, defense: object) -> bool:
        return defense == self.defense

    @override
    def check(self, deq: DEQ) -> None:
        self.defense.check(deq)

    @override
    def evaluations(self, deq: DEQ) -> int:
        forward = deq.evaluations(self.until(deq))
        return forward * (4 if self.checkpoint else 3)

    @override
    def until(self, deq: DEQ) -> int | None:
        return self.defense.until(deq.last_state)

    @override
    def records(self) -> bool:
        return not self.checkpoint

    @override
    def reads_final(self, tail: Unroll) -> bool:
        return self.defense == FinalState()

    @override
    def logits(self, deq: DEQ, x: Pixels) -> Logits:
        """The logits of the defense itself, nan where the solve diverged."""
        return self.defense.logits_of(deq, deq.solution(x, until=self.until(deq), record=self.records()))

    @override
    def read(self, solution: Solution) -> State:
        reader = Reader.of(self.defense, solution)
        return solution.attached(reader.mean, reader.weights)
