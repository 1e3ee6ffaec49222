"""Deep equilibrium models: x → u = injection(x) → z* with z* = f(z*; u) → z_{N+1} = tail(z*) → logits = head(z_{N+1}).

The forward pass is a black-box solve (Bai, Kolter and Koltun, "Deep Equilibrium Models", NeurIPS 2019); how it is
differentiated is a `Gradient`'s business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
import torch._functorch.config
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from robustdeq.errors import InputError
from robustdeq.solvers import Broyden, Iteration, Solver, Trajectory
from robustdeq.solvers.base import Selection


@dataclass(frozen=True)
class BoundCell:
    """A cell with everything that is constant during one solve computed once.

    Attributes:
        function: z → f(z; u), on states of the cell's own shape.
        tensors: u, then every other tensor that f depends on besides z; gradients of f stop there.
    """

    function: Callable[[Tensor], Tensor]
    tensors: tuple[Tensor, ...]

    def __call__(self, z: Float[Tensor, "batch *state"]) -> Tensor:
        """f(z; u)."""
        return self.function(z)


class Precision(StrEnum):
    """What a cell's convolutions and products are computed in: the precision of its weights, or bfloat16."""

    FULL = "full"
    BFLOAT16 = "bfloat16"


@dataclass(frozen=True)
class Execution:
    """How f is evaluated. States and residuals stay in the precision of the weights, and so does a solver's algebra.

    Args:
        precision: `"full"`, or `"bfloat16"` for autocast within f; for training, and for making adversaries in it.
        compiled: compile f with `torch.compile`, which takes a minute or so at first.

    Raises:
        InputError: there is no such precision.
    """

    precision: str = "full"
    compiled: bool = False

    def __post_init__(self) -> None:
        if self.precision not in list(Precision):
            known = " or ".join(repr(str(precision)) for precision in Precision)
            raise InputError(f"precision is {self.precision!r}; choose {known}.")

    def autocast(self, device: torch.device) -> torch.autocast:
        """The context in which f is evaluated."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == Precision.BFLOAT16)

    def of(self, cell: BoundCell) -> BoundCell:
        """The same f, evaluated this way."""
        if self == Execution():
            return cell
        function = cell.function
        if self.compiled:
            # An implicit gradient pulls back through one evaluation of f many times.
            torch._functorch.config.donated_buffer = False
            function = torch.compile(function)

        def executed(z: Tensor) -> Tensor:
            with self.autocast(z.device):
                return function(z).to(z.dtype)

        return replace(cell, function=executed)


@runtime_checkable
class _BindingCell(Protocol):
    def bind(self, u: Tensor) -> BoundCell: ...


@runtime_checkable
class _StartingCell(Protocol):
    def initial_state(self, u: Tensor) -> Tensor: ...


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Within it the parameters need no gradient, so that none is computed for them."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


@contextmanager
def solving(deq: DEQ, **settings: Any) -> Iterator[None]:
    """Within it the solver of a model has other settings, such as `max_steps`."""
    solver = deq.solver
    deq.solver = replace(solver, **settings)
    try:
        yield
    finally:
        deq.solver = solver


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Within it the module is in eval mode and its parameters need no gradient."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        with frozen(module):
            yield
    finally:
        for part in training:
            part.training = True


def bind(cell: nn.Module, u: Float[Tensor, "batch *injection"]) -> BoundCell:
    """Bind a cell to its injection: the cell's own `bind(u)` where it defines one, else `cell(·, u)` as it is."""
    if isinstance(cell, _BindingCell):
        return cell.bind(u)
    return BoundCell(lambda z: cell(z, u), (u, *cell.parameters()))


def initial_state(cell: nn.Module, u: Float[Tensor, "batch *injection"]) -> Float[Tensor, "batch *state"]:
    """z_0: `cell.initial_state(u)` where the cell defines it, else zeros of the shape of u."""
    return cell.initial_state(u) if isinstance(cell, _StartingCell) else torch.zeros_like(u)


class Linearization:
    """The cell at one state, evaluated with its graph."""

    def __init__(self, cell: BoundCell, state: Float[Tensor, "batch *state"]) -> None:
        self._tensors = cell.tensors
        self._state = state.detach().requires_grad_()
        with torch.enable_grad():
            self._value = cell(self._state)

    @property
    def state(self) -> Float[Tensor, "batch *state"]:
        """Where f was evaluated."""
        return self._state.detach()

    @property
    def value(self) -> Float[Tensor, "batch *state"]:
        """f(z)."""
        return self._value.detach()

    @property
    def residual(self) -> Float[Tensor, "batch dim"]:
        """g(z) = f(z) − z, flat."""
        return (self._value - self._state).detach().flatten(1)

    def vjp(
        self, cotangent: Float[Tensor, "batch dim"], to: tuple[Tensor, ...] = (), retain: bool = False
    ) -> tuple[Float[Tensor, "batch dim"], list[Tensor]]:
        """Jᵀ c for a flat cotangent c, flat, and (∂f/∂t)ᵀ c for each tensor t of `to`; `retain` keeps the graph."""
        state, *others = torch.autograd.grad(
            self._value,
            (self._state, *to),
            cotangent.reshape(self._value.shape),
            retain_graph=retain,
            allow_unused=True,
            materialize_grads=True,
        )
        return state.flatten(1), others

    def tensor_vjp(
        self, cotangent: Float[Tensor, "batch dim"], to: tuple[Tensor, ...], retain: bool = False
    ) -> list[Tensor]:
        """(∂f/∂t)ᵀ c alone, for each tensor t of `to`."""
        return list(
            torch.autograd.grad(
                self._value,
                to,
                cotangent.reshape(self._value.shape),
                retain_graph=retain,
                allow_unused=True,
                materialize_grads=True,
            )
        )


@dataclass(frozen=True)
class Unroll:
    """The tail of a model: damped steps of the cell from z* (Eq. 6), ending in the final state z_{N+1}.

    Args:
        steps: k, how many steps; 0 with `from_image` is f(z*) itself.
        damping: λ in (0, 1].
        from_image: start from f(z*), which the solve has already evaluated, instead of z*. The published
            exact-trained models are `Unroll(1, 1.0)`, the unrolling-trained ones `Unroll(5, 0.5, from_image=True)`.

    Raises:
        InputError: a setting is out of its range.
    """

    steps: int = 1
    damping: float = 1.0
    from_image: bool = False

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise InputError(f"steps is {self.steps}; a tail makes 0 or more steps.")
        if not 0 < self.damping <= 1:
            raise InputError(f"damping is {self.damping}; give a number in (0, 1].")

    def __call__(self, cell: Callable[[Tensor], Tensor], state: Float[Tensor, "batch *state"]) -> Tensor:
        """Run the steps from where the tail starts."""
        for _ in range(self.steps):
            state = torch.lerp(state, cell(state), self.damping)
        return state

    def finish(
        self,
        cell: Callable[[Tensor], Tensor],
        start: Float[Tensor, "batch dim"],
        value: Float[Tensor, "batch dim"],
        shape: torch.Size,
    ) -> Float[Tensor, "batch dim"]:
        """z_{N+1} from where the tail starts and from f(z*), which is not evaluated again."""
        if self.from_image or self.steps == 0:
            return self(cell, start.view(shape)).flatten(1)
        first = torch.lerp(start, value, self.damping)
        return replace(self, steps=self.steps - 1)(cell, first.view(shape)).flatten(1)


@dataclass
class Solution:
    """One solve of a model: the injection with its graph, the bound cell, the trajectory, and how f was recorded.

    Attributes:
        u: the injection of x, attached to the graph of x.
        cell: the cell bound to u.
        initial: z_0, attached to u where it depends on it.
        tail: the model's tail.
        trajectory: the states.
        tape: f at z_0, z_1, … with its graph, as far as it was recorded.
        tail_states: where the tail evaluated f, if it was run to be gone back along.
        tail_tape: f there with its graph, as far as it was recorded.
    """

    u: Float[Tensor, "batch *injection"]
    cell: BoundCell
    initial: Float[Tensor, "batch *state"]
    tail: Unroll
    trajectory: Trajectory
    tape: dict[int, Linearization] = field(default_factory=dict)
    tail_states: list[Float[Tensor, "batch *state"]] = field(default_factory=list)
    tail_tape: dict[int, Linearization] = field(default_factory=dict)

    def linearize(self, n: int) -> Linearization:
        """The cell at z_n: from the tape, which gives it up, or evaluated again."""
        return self.tape.pop(n, None) or Linearization(self.cell, self.state(n))

    def state(self, n: int) -> Float[Tensor, "batch *state"]:
        """z_n, n from 0 to N + 1 (the final state), without graph."""
        return self.final if n > self.trajectory.max_steps else self.trajectory.state(n)

    @cached_property
    def start(self) -> Float[Tensor, "batch *state"]:
        """Where the tail starts: z* or f(z*)."""
        t = self.trajectory
        return (t.best_value if self.tail.from_image else t.solution).view(t.shape)

    def run_tail(self, record: bool) -> None:
        """Compute the final state, and keep the states of the tail so that `pull_back_tail` can go back along them.

        Args:
            record: keep the graphs of f there too.
        """
        state, known = self.start, not record and not self.tail.from_image
        for step in range(self.tail.steps):
            self.tail_states.append(state)
            if record:
                latest = self.tail_tape[step] = Linearization(self.cell, state)
                value = latest.value
            elif step == 0 and known:
                value = self.trajectory.best_value.view_as(state)
            else:
                with torch.no_grad():
                    value = self.cell(state)
            state = torch.lerp(state, value, self.tail.damping)
        self.final = state

    def pull_back_tail(
        self, cotangent: Float[Tensor, "batch dim"], to: tuple[Tensor, ...]
    ) -> tuple[Float[Tensor, "batch dim"], list[Tensor]]:
        """Pull a cotangent of the final state back through the tail that was run; recorded graphs are given up.

        Args:
            cotangent: of z_{N+1}.
            to: tensors that f depends on.

        Returns:
            The cotangents of where the tail starts and of each tensor of `to`.
        """
        totals = [torch.zeros_like(tensor) for tensor in to]
        for step, state in reversed([*enumerate(self.tail_states)]):
            linearization = self.tail_tape.pop(step, None) or Linearization(self.cell, state)
            through_cell, parts = linearization.vjp(self.tail.damping * cotangent, to)
            totals = [total + part for total, part in zip(totals, parts, strict=True)]
            cotangent = (1 - self.tail.damping) * cotangent + through_cell
        return cotangent, totals

    @cached_property
    def final(self) -> Float[Tensor, "batch *state"]:
        """z_{N+1}, without graph."""
        t = self.trajectory
        with torch.no_grad():
            return self.tail.finish(self.cell, self.start.flatten(1), t.best_value, t.shape).view(t.shape)


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

    def _inject(self, x: Tensor) -> tuple[Tensor, BoundCell, Tensor]:
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
        u, cell, start = self._inject(x)
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
            _, cell, initial = self._inject(x)
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


class StateStream:
    """The states z_1, …, z_N, z_{N+1} of one solve, in order, each with the samples for which it is a new state.

    Holds O(1) states: the current one, z* so far, and what the solver itself remembers.
    """

    def __init__(self, run: Iteration, cell: BoundCell, tail: Unroll, shape: torch.Size) -> None:
        self._run, self._cell, self._tail, self._shape = run, cell, tail, shape

    @property
    def diverged(self) -> Tensor:
        """The samples that have diverged so far, (B,)."""
        return self._run.diverged

    def __iter__(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield (n, z_n in the shape of a state, visited (B,)); f(z_n) is evaluated only when n + 1 is asked for."""
        selection = Selection(self._run.solver, states=not self._tail.from_image)
        n, state = 0, self._run.initial
        for iterate in self._run:
            n, state = iterate.index, iterate.state
            if n > 0:
                yield n, state.view(self._shape), iterate.visited
            selection.add(iterate)
        for repeated in range(n + 1, self._run.solver.max_steps + 1):
            yield repeated, state.view(self._shape), torch.zeros_like(self.diverged)
        start = selection.value if selection.state is None else selection.state
        final = self._tail.finish(self._cell, start, selection.value, self._shape)
        yield self._run.solver.max_steps + 1, final.view(self._shape), torch.ones_like(self.diverged)
