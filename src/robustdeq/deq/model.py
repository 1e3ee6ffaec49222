"""Deep equilibrium models: x → u = injection(x) → z* with z* = f(z*; u) → z_{N+1} = tail(z*) → logits = head(z_{N+1}).

The forward pass is a black-box solve (Bai, Kolter and Koltun, "Deep Equilibrium Models", NeurIPS 2019); how it is
differentiated is a `Gradient`'s business.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol, Self, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from robustdeq.base.errors import InputError
from robustdeq.deq.cell import BoundCell, Execution, Linearization, bind, initial_state
from robustdeq.deq.solve import Solution, StateStream
from robustdeq.deq.tail import Unroll
from robustdeq.solvers import Broyden, Solver, Trajectory


@contextmanager
def solving(deq: DEQ, **settings: Any) -> Iterator[None]:
    """Within it the solver of a model has other settings, such as `max_steps`."""
    solver = deq.solver
    deq.solver = replace(solver, **settings)
    try:
        yield
    finally:
        deq.solver = solver


@runtime_checkable
class TrainingGradient(Protocol):
    """What a model asks of the gradient it is trained with."""

    def records(self) -> bool:
        """Whether f is to be recorded with its graph while the solver runs."""
        ...

    def read(self, solution: Solution) -> Float[Tensor, "batch *state"]:
        """The state it reads, attached so that its backward pass is this gradient."""
        ...

    def reads_final(self, tail: Unroll) -> bool:
        """Whether that state is the model's final state."""
        ...


class DEQ(nn.Module):
    """A deep equilibrium model from any injection, cell and head.

    Args:
        injection: x (B, …) → u.
        cell: (z, u) → z', z of any shape (B, …). It may define `initial_state(u)` (z_0; zeros like u otherwise) and
            `bind(u)` (a `BoundCell`, for what is constant during a solve).
        head: z → logits (B, K).
        solver: the fixed-point method.
        tail: how z* becomes the final state z_{N+1}.
        gradient: how the solve is differentiated in `forward`, which is what training uses: any gradient that reads one
            state (`Exact`, `Phantom`, `Neumann`, `SHINE`, `JacobianFree`, `ThroughSolver`). None differentiates the
            tail alone, which is the phantom gradient (Eq. 4) with the tail's own steps.

    Attributes:
        execution: how the cell is evaluated; in full precision until it is set otherwise.
    """

    def __init__(
        self,
        injection: nn.Module,
        cell: nn.Module,
        head: nn.Module,
        solver: Solver | None = None,
        tail: Unroll | None = None,
        gradient: TrainingGradient | None = None,
    ) -> None:
        super().__init__()
        self.injection = injection
        self.cell = cell
        self.head = head
        self.solver = Broyden(max_steps=8, tol=1e-3, stop="rel") if solver is None else solver
        self.tail = Unroll() if tail is None else tail
        self.gradient = gradient
        self.execution = Execution()

    @property
    def last_state(self) -> int:
        """N + 1, the index of the final state."""
        return self.solver.max_steps + 1

    def check_state(self, n: int) -> None:
        """Raise `InputError` unless z_n exists, 1 ≤ n ≤ N + 1."""
        if not 1 <= n <= self.last_state:
            raise InputError(
                f"state {n} does not exist in this model; its solver makes states 1 to {self.solver.max_steps}, "
                f"and {self.last_state} is the final one."
            )

    def evaluations(self, until: int | None) -> int:
        """How often f is evaluated, at most, to reach z_until; None (or N + 1) for the final state."""
        if until is not None and until <= self.solver.max_steps:
            return until
        known = 0 if self.tail.from_image or self.tail.steps == 0 else 1
        return self.solver.max_steps + 1 + self.tail.steps - known

    def check_input(self, x: Tensor) -> None:
        """Raise `InputError` unless x is a batch of floating-point inputs in the precision of the weights."""
        if not x.is_floating_point():
            raise InputError(f"x has dtype {x.dtype}; convert it to floating-point pixels in [0, 1].")
        if x.ndim < 2 or len(x) == 0:
            raise InputError(f"x has shape {tuple(x.shape)}; give a batch of at least one sample.")
        weight = next(self.parameters(), x)
        if x.dtype != weight.dtype:
            raise InputError(f"x has dtype {x.dtype} and the model {weight.dtype}; convert one of them.")

    def with_settings(self, **settings: Any) -> Self:
        """The same model, the very same weights, with another `solver`, `tail`, `gradient` or `execution`."""
        model = copy.copy(self)
        for name, setting in settings.items():
            setattr(model, name, setting)
        return model

    def bind(self, x: Tensor) -> tuple[Tensor, BoundCell, Tensor]:
        """The injection u of x, the cell bound to it as `execution` says, and z_0, all attached to the graph of x.

        Raises:
            InputError: x is no batch of floating-point inputs.
        """
        self.check_input(x)
        u = self.injection(x)
        return u, self.execution.of(bind(self.cell, u)), initial_state(self.cell, u)

    def solution(
        self,
        x: Shaped[Tensor, "*image"],
        until: int | None = None,
        record: bool = False,
        initial: Float[Tensor, "batch *state"] | None = None,
    ) -> Solution:
        """Solve for x and keep what a gradient needs.

        Args:
            x: the inputs.
            until: stop when z_until is reached, before f is evaluated there; None (or N + 1) for the whole solve.
            record: keep the graph of f at every state, where the solver evaluates it there alone.
            initial: z_0, to go on from another solve; None for the cell's own.

        Raises:
            InputError: x is no batch of floating-point inputs.
        """
        u, cell, start = self.bind(x)
        initial = start if initial is None else initial
        tape: dict[int, Linearization] = {}

        def recorded(z: Tensor) -> Tensor:
            latest = tape[len(tape)] = Linearization(cell, z)
            return latest.value

        record = record and self.solver.evaluates_once and torch.is_grad_enabled()
        whole = until is None or until > self.solver.max_steps
        solver = self.solver if until is None or whole else replace(self.solver, max_steps=until)
        trajectory = solver.solve(recorded if record else cell, initial.detach(), evaluate_last=whole)
        return Solution(u, cell, initial, self.tail, trajectory, tape)

    def solve(self, x: Shaped[Tensor, "*image"]) -> Trajectory:
        """The trajectory of the solve for x, with its final state; no gradient is kept."""
        with torch.no_grad():
            solution = self.solution(x)
            return solution.trajectory.replace(tail=solution.final.flatten(1))

    def iterate(self, x: Shaped[Tensor, "*image"], until: int | None = None) -> StateStream:
        """Start a solve for x that hands out its states one by one and keeps none of them.

        Args:
            x: the inputs.
            until: the last state that will be asked for, so that the solver need not remember beyond it; None for all.

        Raises:
            InputError: x is no batch of floating-point inputs.
        """
        whole = until is None or until > self.solver.max_steps
        solver = self.solver if until is None or whole else replace(self.solver, max_steps=until)
        with torch.no_grad():
            _, cell, initial = self.bind(x)
            still = replace(cell, function=torch.no_grad()(cell.function))
            return StateStream(solver.iterate(still, initial), still, self.tail, initial.shape)

    def forward(self, x: Shaped[Tensor, "*image"]) -> Float[Tensor, "batch classes"]:
        """The logits of the final state; their gradient is `self.gradient`."""
        return self.logits(self.solution(x, record=self.gradient is not None and self.gradient.records()))

    def logits(self, solution: Solution) -> Float[Tensor, "batch classes"]:
        """The logits of the final state of a solve; their gradient is `self.gradient`."""
        gradient = self.gradient
        if not torch.is_grad_enabled():
            return self.head(solution.final)
        if gradient is None:
            return self.head(self.tail(solution.cell, solution.start))
        state = gradient.read(solution)
        if not gradient.reads_final(self.tail):
            state = solution.final + (state - state.detach())
        return self.head(state)
