"""The options of a training step whose worth is measured, each alone against the plain step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from robustdeq.attacks import PGD
from robustdeq.deq.cell import Execution
from robustdeq.deq.gradients import Phantom, StateGradient, ThroughSolver
from robustdeq.training import AdversarialTraining, SolverSteps


@dataclass(frozen=True)
class Option:
    """A training step that differs from the plain one in one thing.

    Args:
        gradient: of the weights and the adversaries.
        warm_steps: solver steps from the fixed point of the iterate before.
        execution: how f is evaluated.
        solver_steps: of the phases; the speed is that of the first.
        averaging: the decay of the moving average of the weights.
    """

    gradient: StateGradient = field(default_factory=lambda: Phantom(5, 0.5))
    warm_steps: int | None = None
    execution: Execution = field(default_factory=Execution)
    solver_steps: SolverSteps = field(default_factory=SolverSteps)
    averaging: float = 0.0

    def objective(self, attack: PGD) -> AdversarialTraining:
        """The objective with this option."""
        return AdversarialTraining(attack, warm_steps=self.warm_steps)


PLAIN = "plain: float32, solves anew"
OPTIONS: Mapping[str, Option] = {
    PLAIN: Option(),
    "bfloat16 in f": Option(execution=Execution("bfloat16")),
    "warm start, 3 steps": Option(warm_steps=3),
    "warm start, 3 steps, and bfloat16": Option(warm_steps=3, execution=Execution("bfloat16")),
    "half the solver steps for 4/5 of the time": Option(solver_steps=SolverSteps((4, 8), (0.0, 0.8))),
    "all steps, whatever the tolerance": Option(solver_steps=SolverSteps(asynchronous=True)),
    "torch.compile": Option(execution=Execution(compiled=True)),
    "through the solver": Option(gradient=ThroughSolver()),
    "average of the weights, 0.99": Option(averaging=0.99),
}
