"""What every fixed-point solver shares: the loop, per-sample stopping and the trajectory it leaves behind.

A solver looks for z with g(z) = f(z) − z = 0. Each of ours moves by an increment that is a *combination of vectors it
has already seen* (earlier increments s_i and residuals g_i) whose coefficients depend on nothing but their inner
products. A method is therefore two small things: which vectors it remembers (`Memory`), and how the products become
coefficients (`Solver.coefficients`). The loop, the stopping rule, the reverse sweep (`reverse.py`) are written once.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from robustdeq.base.errors import InputError, check_choice, require
from robustdeq.base.history import version
from robustdeq.base.shapes import Flat, Labels, Mask, PerSample, State
from robustdeq.solvers.inverse import InverseJacobian, combine
from robustdeq.solvers.memory import Memory, Products

Function = Callable[[Tensor], Tensor]


class StopRule(StrEnum):
    """Which residual a tolerance refers to: ‖f(z) − z‖ / ‖f(z)‖ (`rel`) or ‖f(z) − z‖ (`abs`)."""

    REL = "rel"
    ABS = "abs"

    def measure(self, iterate: Iterate) -> PerSample:
        """The residual of an iterate under this rule."""
        return iterate.relative_residual if self is StopRule.REL else iterate.residual_norm


class Result(StrEnum):
    """Which iterate a solve returns as z*: the one of lowest residual (`best`) or the last one (`last`)."""

    BEST = "best"
    LAST = "last"


class Iterate:
    """One state z_n of a running solve; f(z_n) and the residual are evaluated when first asked for."""

    def __init__(
        self, function: Function, memory: Memory, index: int, state: Tensor, visited: Tensor, value: Tensor | None
    ) -> None:
        self._function = function
        self._memory = memory
        self.index = index
        self.state: Flat = state
        self.visited: Mask = visited
        self._value = value
        self._residual_norm: Tensor | None = None
        self._relative_residual: Tensor | None = None

    @property
    def value(self) -> Flat:
        """f(z_n)."""
        if self._value is None:
            self._value = self._function(self.state)
        return self._value

    @property
    def residual_norm(self) -> PerSample:
        """‖f(z_n) − z_n‖; the memory receives the residual when it is first asked for."""
        found = self._residual_norm
        if found is None:
            residual = self._memory.receive(self.value, self.state)
            found = self._residual_norm = torch.linalg.vector_norm(residual, dim=1)
        return found

    @property
    def relative_residual(self) -> PerSample:
        """‖f(z_n) − z_n‖ / ‖f(z_n)‖."""
        found = self._relative_residual
        if found is None:
            norm = torch.linalg.vector_norm(self.value, dim=1)
            found = self._relative_residual = self.residual_norm / norm.clamp_min(torch.finfo(norm.dtype).tiny)
        return found


def _on_flat_states(function: Function, shape: torch.Size) -> Function:
    """F on flat states; it raises `InputError` when it changes its input or its output is not shaped like that."""

    def flat(state: Flat) -> Flat:
        before = version(state)
        value = function(state if len(shape) == 2 else state.view(shape))
        require(version(state) == before, "the cell changes the state it is given; make it return another tensor.")
        if value.shape != shape:
            raise InputError(
                f"the cell maps a state of shape {tuple(shape)} to {tuple(value.shape)}; "
                "make it return a state of the shape it was given."
            )
        return value if len(shape) == 2 else value.reshape(state.shape)

    return flat


class Iteration:
    """A running solve: iterate over it for z_0, z_1, …; it tells how each sample fares and which state is its z*.

    A sample that has converged or diverged is frozen: it keeps its state, and nothing of it reaches its neighbours. The
    loop ends after `max_steps`, or, with a positive tolerance, once every sample is frozen. With `tol=0` it never waits
    for the device (`Solver.may_sync`), so it runs without host synchronisation; a sample whose residual has fallen to
    rounding level is frozen all the same, since further increments would be noise.

    `steps`, `converged`, `diverged`, `best_index` and `best_value` are those of the `Trajectory` so far; z_0 stands for
    z* until z_1 is known.

    Attributes:
        best_state: z*, flat, where the iteration was told to hold it.
        last: the last iterate at which f was evaluated.
        whole: whether every sample still moves; false where the host may not look.
    """

    best_value: Flat
    best_state: Flat | None = None
    last: Iterate

    def __init__(self, solver: Solver, function: Function, initial: Tensor, keep: bool, hold_best: bool) -> None:
        self.solver = solver
        self.initial: Flat = initial.flatten(1)
        self.memory = solver.memory(self.initial, keep)
        batch, device = len(initial), initial.device
        self._best: Labels | int = 0
        self.converged: Mask = torch.zeros(batch, dtype=torch.bool, device=device)
        self.diverged: Mask = torch.zeros(batch, dtype=torch.bool, device=device)
        self.function = _on_flat_states(function, initial.shape)
        self._hold_best = hold_best
        self._lowest = self._infinite = self.initial.new_full((batch,), math.inf)
        self._rounding: PerSample = torch.full_like(self._lowest, 4 * torch.finfo(initial.dtype).eps)
        self._measure = solver.rule.measure
        self._frozen: Mask = torch.zeros_like(self.converged)
        self._active: Mask = ~self._frozen
        self._stopped: Labels = torch.zeros(batch, dtype=torch.long, device=device)
        self._syncs = self.whole = solver.may_sync(self.initial)
        self._index = 0

    @property
    def best_index(self) -> Labels:
        """The n for which z_n is z*; held as one number while it is the same for all samples."""
        return torch.full_like(self._stopped, self._best) if isinstance(self._best, int) else self._best

    @property
    def steps(self) -> Labels:
        """The index of the last state that each sample has visited."""
        return torch.where(self._active, self._index, self._stopped)

    def __iter__(self) -> Iterator[Iterate]:
        solver, memory, state = self.solver, self.memory, self.initial
        value, limit, greatest = None, None, torch.finfo(state.dtype).max
        for n in range(solver.max_steps + 1):
            self._index = n
            iterate = Iterate(self.function, memory, n, state, self._active, value)
            yield iterate
            self._consider(iterate)
            limit = (solver.divergence * iterate.residual_norm).nan_to_num(greatest) if limit is None else limit
            going = self._goes_on(iterate, limit)
            if not self._all_pass(going):
                self._freeze(iterate, limit, ~going)
                if n > 0 and solver.tol > 0 and not bool(self._active.any()):
                    return
            if n == solver.max_steps:
                return
            increment = memory.propose()
            finite = torch.linalg.vector_norm(increment, dim=1) < self._infinite
            if not self._all_pass(finite):
                self.diverged = self.diverged | (self._active & ~finite)
                self._stop(n, ~finite)
            if not self.whole:
                increment.masked_fill_(self._frozen[:, None], 0)
            value, shortenings = solver.search(self.function, iterate, increment)
            memory.commit(shortenings)
            state = state + increment

    def _all_pass(self, passed: Mask) -> bool:
        """Whether every sample passes a test that is not frozen; false where the host may not look."""
        return self._syncs and bool((passed if self.whole else passed | self._frozen).all())

    def _goes_on(self, iterate: Iterate, limit: PerSample) -> Mask:
        """Whether each sample has neither converged nor diverged; a nan passes no test."""
        going = iterate.residual_norm <= limit
        if iterate.index > 0:
            going &= iterate.relative_residual > self._rounding
            if self.solver.tol > 0:
                going &= self._measure(iterate) >= self.solver.tol
        return going

    def _freeze(self, iterate: Iterate, limit: PerSample, samples: Mask) -> None:
        """Freeze samples that have converged or diverged, or whose increments would be noise."""
        within = iterate.residual_norm <= limit
        self.diverged = self.diverged | (self._active & ~within)
        if iterate.index > 0 and self.solver.tol > 0:
            reached = self._measure(iterate) < self.solver.tol
            self.converged = self.converged | (self._active & within & reached)
        self._stop(iterate.index, samples)

    def _stop(self, n: int, samples: Mask) -> None:
        """Freeze samples at z_n, those of them that still move."""
        self._stopped = torch.where(self._active & samples, n, self._stopped)
        self._frozen = self._frozen | samples
        self._active = ~self._frozen
        self.whole = self._syncs and bool(self._active.all())

    def _consider(self, iterate: Iterate) -> None:
        """Take z_n for z* of the samples for which it is the best so far."""
        self.last = iterate
        state = iterate.state if self._hold_best else None
        if iterate.index == 0:
            self.best_value, self.best_state = iterate.value, state
            return
        if self.solver.result is Result.LAST:
            self._best = torch.where(iterate.visited, iterate.index, self.best_index)
            self.best_value, self.best_state = iterate.value, state
            return
        measure = self._measure(iterate)
        better = measure < self._lowest
        if self.whole and bool(better.all()):
            self._lowest, self._best = measure, iterate.index
            self.best_value, self.best_state = iterate.value, state
            return
        better = iterate.visited & better
        if self._syncs and not bool(better.any()):
            return
        self._lowest = torch.where(better, measure, self._lowest)
        self._best = torch.where(better, iterate.index, self.best_index)
        self.best_value = torch.where(better[:, None], iterate.value, self.best_value)
        if state is not None and self.best_state is not None:
            self.best_state = torch.where(better[:, None], state, self.best_state)


@dataclass(frozen=True)
class Solver(ABC):
    """A fixed-point method and its settings.

    Args:
        max_steps: how many increments are taken at most (N); f is evaluated at z_0 … z_N.
        tol: a sample whose residual falls below it is converged and frozen; 0 takes all N steps and never makes the
            host wait for the device.
        stop: `"rel"` or `"abs"`, the residual that `tol` refers to and that ranks the iterates.
        result: `"best"` returns the visited iterate of lowest residual as z*, `"last"` the last one.
        divergence: a sample whose ‖f(z) − z‖ exceeds this multiple of its value at z_0 (or is not finite) is marked
            diverged and frozen; with ∞ only what is not finite is.

    Raises:
        InputError: a setting is out of its range.
    """

    max_steps: int = 30
    tol: float = 1e-3
    stop: str = "rel"
    result: str = "best"
    divergence: float = 1e6

    def __post_init__(self) -> None:
        require(self.max_steps >= 1, f"max_steps is {self.max_steps}; a solver takes at least 1 step.")
        require(self.tol >= 0, f"tol is {self.tol}; give a tolerance of 0 (fixed number of steps) or more.")
        require(self.divergence > 0, f"divergence is {self.divergence}; give a multiple > 0 of the first residual.")
        for name, kind in (("stop", StopRule), ("result", Result)):
            check_choice(name, getattr(self, name), kind)
            object.__setattr__(self, name, kind(getattr(self, name)))

    @property
    def rule(self) -> StopRule:
        """The stopping rule that `stop` names."""
        return StopRule(self.stop)

    @property
    def evaluates_once(self) -> bool:
        """Whether f is evaluated at each state once and nowhere else."""
        return True

    def may_sync(self, z: State) -> bool:
        """Whether the host may look at what is on the device of these states.

        With a tolerance it does so in any case, and on the CPU it waits for nothing.
        """
        return self.tol > 0 or z.device.type == "cpu"

    def evaluations(self, steps: int, evaluate_last: bool = True) -> int:
        """How often f is evaluated, at most, by so many steps from z_0, at the state they end in as well or not."""
        return steps + evaluate_last

    @abstractmethod
    def memory(self, initial: Flat, keep: bool) -> Memory:
        """An empty memory; with `keep` it retains every increment, otherwise only what the method needs."""

    @abstractmethod
    def window(self, step: int) -> tuple[range, range]:
        """The indices of the increments and of the residuals that s_step is a combination of."""

    @abstractmethod
    def coefficients(
        self, products: Products, shortenings: Float[Tensor, "batch steps"] | None
    ) -> tuple[Float[Tensor, "batch p"], Float[Tensor, "batch q"]]:
        """The coefficients of s_n on the remembered increments and residuals, differentiable in `products`.

        Args:
            products: their inner products.
            shortenings: by which factors a line search shortened the increments among them, where there was one.
        """

    def search(self, function: Function, iterate: Iterate, increment: Flat) -> tuple[Flat | None, PerSample | None]:
        """Shorten `increment` in place where the method searches along it; returns f at its end and the factors."""
        return None, None

    def inverse(self, trajectory: Trajectory, n: int) -> InverseJacobian:
        """The estimate B_n of the inverse Jacobian of g that the method holds at z_n, where it keeps one."""
        raise NotImplementedError

    def check_inverse(self) -> None:
        """Raise `InputError` where the method does not define `inverse`: it keeps no estimate."""
        require(
            type(self).inverse is not Solver.inverse,
            f"{type(self).__name__} keeps no estimate of the inverse Jacobian; solve with Broyden where one is needed.",
        )

    def iterate(self, function: Function, z0: State, hold_best: bool = False) -> Iteration:
        """Start a solve that remembers only what the method itself needs; iterate over it for z_0, z_1, and so on.

        Args:
            function: f, from (B, ...) to (B, ...).
            z0: the initial states, (B, ...).
            hold_best: hold z* as well as f(z*).
        """
        return Iteration(self, function, z0, keep=False, hold_best=hold_best)

    @torch.no_grad()
    def solve(self, function: Function, z0: State, evaluate_last: bool = True) -> Trajectory:
        """Solve f(z) = z from z_0 and keep the whole trajectory.

        Args:
            function: f, from (B, ...) to (B, ...); a sample of its output depends on that sample of its input only.
            z0: the initial states, (B, ...).
            evaluate_last: whether f is evaluated at z_N too. Without it the residual there is not known (nan), and
                neither z_N nor B_N is ready to be built upon.

        Returns:
            The trajectory, with `max_steps` states.

        Raises:
            InputError: z0 has no sample, or f changes the state it is given or the shape of it.
        """
        if z0.ndim < 1 or len(z0) == 0:
            raise InputError(f"the initial state has shape {tuple(z0.shape)}; give at least one sample.")
        z0 = z0.reshape(len(z0), -1) if z0.ndim == 1 else z0
        run = Iteration(self, function, z0, keep=True, hold_best=False)
        residuals: list[Tensor] = []
        reached = 0
        for iterate in run:
            reached = iterate.index
            if reached == self.max_steps and not evaluate_last:
                residuals.append(run.initial.new_full((len(z0),), math.nan))
                break
            if reached > 0:
                previous = residuals[-1] if residuals else iterate.relative_residual
                latest = iterate.relative_residual
                residuals.append(latest if run.whole else torch.where(iterate.visited, latest, previous))
        residuals += residuals[-1:] * (self.max_steps - len(residuals))
        return Trajectory(
            solver=self,
            shape=z0.shape,
            initial=run.initial,
            increments=run.memory.increments(self.max_steps),
            shortenings=run.memory.shortenings(),
            residual_vectors=run.memory.residual_vectors(),
            last_residual=run.last.value - run.last.state,
            reached=reached,
            residuals=torch.stack(residuals),
            steps=run.steps,
            converged=run.converged,
            diverged=run.diverged,
            best_index=run.best_index,
            best_value=run.best_value,
        )


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The states a solver visited, kept as the increments s_n = z_{n+1} − z_n, and how each sample fared.

    Attributes:
        solver: the solver that made it.
        shape: (B, ...), the shape of a state.
        initial: z_0, flat.
        increments: s_0 … s_{N−1}; zero once a sample is frozen, so that it repeats its last state.
        shortenings: by which factor a line search shortened each step, (N, B); None without one.
        residual_vectors: g_0, g_1, …, for methods that remember more than the last residual.
        last_residual: f(z) − z at the last state that was evaluated, flat.
        reached: the index of the last state that the loop came to; no sample took a step beyond it.
        residuals: ‖f(z_n) − z_n‖ / ‖f(z_n)‖ of z_1 … z_N.
        steps: the index of the last state each sample visited.
        converged: whether its residual fell below the tolerance.
        diverged: whether it became non-finite or left all bounds; such a sample is an error of whoever reads it.
        best_index: the n for which z_n is z*.
        best_value: f(z*), flat.
        tail: z_{N+1} where a model's tail has computed it, flat.
    """

    solver: Solver
    shape: torch.Size
    initial: Flat
    increments: Float[Tensor, "max_steps batch dim"]
    shortenings: Float[Tensor, "max_steps batch"] | None
    residual_vectors: Float[Tensor, "states batch dim"] | None
    last_residual: Flat
    reached: int
    residuals: Float[Tensor, "max_steps batch"]
    steps: Labels
    converged: Mask
    diverged: Mask
    best_index: Labels
    best_value: Flat
    tail: Flat | None = None

    @property
    def max_steps(self) -> int:
        """N."""
        return len(self.increments)

    @cached_property
    def states(self) -> Float[Tensor, "max_steps batch dim"]:
        """z_1 … z_N, flat."""
        states = torch.empty_like(self.increments)
        state = self.initial
        for n, increment in enumerate(self.increments):
            state = torch.add(state, increment, out=states[n])
        return states

    @cached_property
    def solution(self) -> Flat:
        """z*, the iterate the solve returns, flat."""
        state = solution = self.initial
        for n, increment in enumerate(self.increments, start=1):
            state = state + increment
            solution = torch.where((self.best_index == n)[:, None], state, solution)
        return solution

    @property
    def final(self) -> State:
        """z_{N+1}: what the model's tail made of z*; z* itself where there was no tail."""
        return (self.solution if self.tail is None else self.tail).view(self.shape)

    def flat_state(self, n: int) -> Flat:
        """z_n, flat, n from 0 to N + 1.

        Raises:
            InputError: n is beyond N + 1.
        """
        if not 0 <= n <= self.max_steps + 1:
            raise InputError(
                f"state {n} does not exist; this trajectory has states 0 to {self.max_steps + 1} "
                f"({self.max_steps + 1} is the final one)."
            )
        if n == self.max_steps + 1:
            return self.final.reshape(self.initial.shape)
        if "states" in self.__dict__ and n > 0:
            return self.states[n - 1]
        state = self.initial
        for increment in self.increments[:n]:
            state = state + increment
        return state

    def state(self, n: int) -> State:
        """z_n in the shape of a state, n from 0 to N + 1 (the final one); raises `InputError` beyond."""
        return self.flat_state(n).view(self.shape)

    def visited(self, n: int) -> Mask:
        """Whether z_n is a state of its own for each sample: one it reached, or the final one."""
        return torch.ones_like(self.diverged) if n > self.max_steps else n <= self.steps

    def lost(self, n: int) -> Mask:
        """Whether each sample had diverged before z_n could be reached; what comes later does not touch z_n."""
        return self.diverged & (n > self.steps)

    @cached_property
    def continued(self) -> Float[Tensor, "states batch dim"]:
        """s_0 … s_N, where each sample's last increment is the one it would have taken from its last state.

        Needed for B_n at a state from which no step was taken. A diverged sample would take none.
        """
        continued = torch.cat([self.increments, torch.zeros_like(self.initial)[None]])
        for n in self.steps.unique().tolist():
            increments = self.increments[:n][self.solver.window(n)[0].start :]
            shortenings = None if self.shortenings is None else self.shortenings.T[:, n - len(increments) : n]
            products = Products.of(increments, self.last_residual[None])
            weights = torch.cat(self.solver.coefficients(products, shortenings), dim=1)
            increment = combine(weights, torch.cat([increments, self.last_residual[None]]))
            here = (self.steps == n) & ~self.diverged & increment.isfinite().all(dim=1)
            continued[n] = torch.where(here[:, None], increment, continued[n])
        return continued

    @cached_property
    def continued_gram(self) -> Float[Tensor, "batch states states"]:
        """The Gram matrix of `continued`."""
        vectors = self.continued.transpose(0, 1)
        return torch.bmm(vectors, vectors.mT)

    def inverse(self, n: int) -> InverseJacobian:
        """B_n, the solver's estimate of the inverse Jacobian of g at z_n, with `matvec` and `rmatvec`.

        Raises:
            InputError: n is not in 0 … N, or the method keeps no such estimate.
        """
        self.solver.check_inverse()
        require(0 <= n <= self.max_steps, f"B_{n} does not exist; this trajectory has B_0 to B_{self.max_steps}.")
        return self.solver.inverse(self, n)
