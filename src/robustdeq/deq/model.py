"""Deep equilibrium models: x → u = injection(x) → z* with z* = f(z*; u) → z_{N+1} = tail(z*) → logits = head(z_{N+1}).

The forward pass is a black-box solve (Bai, Kolter and Koltun, "Deep Equilibrium Models", NeurIPS 2019); how it is
differentiated is a `Gradient`'s business, and the model knows its own. The equations are in `gradients/`, a class each.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn.utils import parametrize
from typing_extensions import override

from robustdeq.base.derivative import derivative
from robustdeq.base.errors import InputError, check_made, look_up, require
from robustdeq.base.history import entangled
from robustdeq.base.shapes import Logits, PerSample, Pixels, State
from robustdeq.deq.cell import BoundCell, Execution, bind, initial_state
from robustdeq.deq.modes import frozen
from robustdeq.deq.solve import Solution
from robustdeq.deq.structure import Structure
from robustdeq.deq.tail import Unroll
from robustdeq.solvers import Broyden, Solver, Trajectory

Model = TypeVar("Model", bound="DEQ")

Loss = Callable[[Tensor], Tensor]


def total_loss(loss: Loss, logits: Logits) -> Float[Tensor, ""]:
    """The sum of a per-sample loss; raises `InputError` unless the loss returns one value per sample."""
    return losses_of(loss, logits).sum()


def losses_of(loss: Loss, logits: Logits) -> PerSample:
    """The loss of each sample; raises `InputError` unless it returns one value per sample."""
    values = loss(logits)
    if values.shape != logits.shape[:1]:
        raise InputError(
            f"the loss returned shape {tuple(values.shape)} for {len(logits)} samples; "
            "make it return one value per sample (reduction='none')."
        )
    return values


class Gradient(ABC):
    """A way to differentiate the loss of a DEQ with respect to its input."""

    title = ""  # not annotated: a recipe is parsed by annotations, which must resolve in the modules of subclasses

    @property
    def label(self) -> str:
        """What it is, in the words of a table; its title, or else the name of its class."""
        return self.title or type(self).__name__

    def true_of(self, defense: object) -> bool:
        """Whether this is the gradient of the very logits that a defense makes, `Defense.logits`."""
        return False

    def check(self, deq: DEQ) -> None:
        """Raise `InputError` where this gradient asks for a state that the model does not have."""

    @abstractmethod
    def evaluations(self, deq: DEQ) -> int:
        """The cost of one input gradient in evaluations of f, a vector-Jacobian product counted as two."""

    @abstractmethod
    def logits(self, deq: DEQ, x: Pixels) -> Logits:
        """The logits of the state whose loss this gradient differentiates; their backward pass is this gradient."""

    def input_gradient(self, deq: DEQ, x: Pixels, loss: Loss) -> Pixels:
        """The gradient of a loss with respect to the input.

        Args:
            deq: the model.
            x: the inputs.
            loss: logits (B, K) → per-sample loss (B,).

        Returns:
            The gradient for each sample, shaped like x.

        Raises:
            InputError: the loss is not per sample, or the model lacks a state that is asked for.
        """
        self.check(deq)
        with frozen(deq), torch.enable_grad():
            return self.differentiate(deq, x.detach().requires_grad_(), loss).detach()

    def differentiate(self, deq: DEQ, x: Pixels, loss: Loss) -> Pixels:
        """The gradient at a leaf x, called by `input_gradient` with gradients enabled and the weights frozen."""
        return derivative(total_loss(loss, self.logits(deq, x)), x)


class StateGradient(Gradient):
    """A gradient of the loss at one state, so that it also serves to train (`DEQ(..., gradient=...)`)."""

    @abstractmethod
    def read(self, solution: Solution) -> State:
        """The state whose loss is differentiated, attached to the injection and the weights by this gradient."""

    def until(self, deq: DEQ) -> int | None:
        """The last state of the trajectory that is needed; None for the whole solve."""
        return None

    def records(self) -> bool:
        """Whether f is to be recorded with its graph while the solver runs."""
        return False

    def reads_final(self, tail: Unroll) -> bool:
        """Whether what it reads is the final state of a model with this tail."""
        return False

    @override
    def logits(self, deq: DEQ, x: Pixels) -> Logits:
        solution = deq.solution(x, until=self.until(deq), record=self.records())
        return deq.classify(solution.cell, self.read(solution))


_SETTINGS: dict[str, tuple[type, str]] = {
    "solver": (Solver, "a solver, such as Broyden()"),
    "tail": (Unroll, "a tail, such as Unroll()"),
    "gradient": (StateGradient, "a gradient that reads one state, such as Phantom()"),
    "execution": (Execution, "an Execution"),
}


def _check_setting(name: str, setting: object) -> None:
    """Raise `InputError` unless there is such a setting of a model, and this is one."""
    kind, words = look_up("setting of a model", name, _SETTINGS)
    check_made(**{name: setting})
    fits = isinstance(setting, kind) or (name == "gradient" and setting is None)
    require(fits, f"{name} is {setting!r}; give {words}.")


class DEQ(nn.Module):
    """A deep equilibrium model from any injection, cell and head.

    Args:
        injection: x (B, …) → u.
        cell: (z, u) → z', z of any shape (B, …). It may define `initial_state(u)` (z_0; zeros like u otherwise) and
            `bind(u)` (a `BoundCell`, for what is constant during a solve, which lists no tensor that is made of another
            one it lists). u and z may each be several tensors, in tuples, lists and dicts; a solver, and all that reads
            its trajectory, sees those of z as one flat tensor.
        head: z → logits (B, K).
        solver: the fixed-point method.
        tail: how z* becomes the final state z_{N+1}.
        gradient: how the solve is differentiated in `forward`, which is what training uses: any gradient that reads one
            state (`Exact`, `Phantom`, `Neumann`, `SHINE`, `JacobianFree`, `ThroughSolver`). None differentiates the
            tail alone, which is the phantom gradient (Eq. 4) with the tail's own steps.

    Attributes:
        execution: how the cell is evaluated; in full precision until it is set otherwise.

    Raises:
        InputError: the solver, the tail or the gradient is none.
    """

    def __init__(
        self,
        injection: nn.Module,
        cell: nn.Module,
        head: nn.Module,
        solver: Solver | None = None,
        tail: Unroll | None = None,
        gradient: StateGradient | None = None,
    ) -> None:
        super().__init__()
        self.injection = injection
        self.cell = cell
        self.head = head
        self.solver = Broyden(max_steps=8, tol=1e-3, stop="rel") if solver is None else solver
        self.tail = Unroll() if tail is None else tail
        self.gradient = gradient
        self.execution = Execution()
        for name in _SETTINGS:
            _check_setting(name, getattr(self, name))

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
        """How often f is evaluated, at most, to reach z_until without a gradient; None for the final state."""
        if until is not None and until <= self.solver.max_steps:
            return self.solver.evaluations(until, evaluate_last=False)
        known = 0 if self.tail.from_image or self.tail.steps == 0 else 1
        return self.solver.evaluations(self.solver.max_steps) + self.tail.steps - known

    def check_input(self, x: Tensor) -> None:
        """Raise `InputError` unless x is a batch in the precision of the weights, single or double; no autocast."""
        require(x.is_floating_point(), f"x has dtype {x.dtype}; convert it to floating-point pixels in [0, 1].")
        require(x.ndim >= 2 and len(x), f"x has shape {tuple(x.shape)}; give a batch of at least one sample.")
        weight = next(self.parameters(), x)
        if weight.dtype not in (torch.float32, torch.float64):
            raise InputError(
                f"the model is in {weight.dtype}, which solvers do not take; convert it to float32, and compute f in "
                "half precision by execution=Execution('bfloat16')."
            )
        if x.dtype != weight.dtype:
            raise InputError(f"x has dtype {x.dtype} and the model {weight.dtype}; convert one of them.")
        self.execution.check(x.dtype)
        device = x.device.type
        require(
            not (torch.is_grad_enabled() and parametrize._cache_enabled),
            "parametrize.cached() keeps weights without their graph, so that their gradients would be lost; leave it.",
        )
        require(
            not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)),
            "torch.autocast halves the precision of solvers too, which they do not take; leave it, and compute f in "
            "half precision by execution=Execution('bfloat16').",
        )

    def with_settings(self: Model, **settings: Any) -> Model:
        """The same model, the very same weights, with another `solver`, `tail`, `gradient` or `execution`.

        Raises:
            InputError: there is no such setting, or what is given is none.
        """
        model = copy.copy(self)
        for name, setting in settings.items():
            _check_setting(name, setting)
            setattr(model, name, setting)
        return model

    def bind(self, x: Tensor) -> tuple[Tensor, BoundCell, Tensor]:
        """The injection u of x, the cell bound to it as `execution` says, and z_0, all attached to the graph of x.

        Where u or z are several tensors, they lie in one.

        Raises:
            InputError: x is no batch of floating-point inputs, the tensors of u or z_0 cannot lie in one or are less
                precise than x, or the cell's own `bind` lists a tensor that is made of another one it lists.
        """
        self.check_input(x)
        parts = self.injection(x)
        injected = Structure.of("injection", parts)
        u = injected.pack(parts)
        parts = injected.unpack(u)
        parts_of_z = initial_state(self.cell, parts)
        structure = Structure.of("state", parts_of_z)
        start = structure.pack(parts_of_z)
        require(
            torch.promote_types(start.dtype, x.dtype) == start.dtype,
            f"the injection makes states of dtype {start.dtype}, and x has {x.dtype}; convert what it returns.",
        )
        cell = bind(self.cell, parts).packed(structure)
        require(
            not (torch.is_grad_enabled() and entangled((cell.apart or cell).tensors)),
            "the cell's `bind` lists a tensor that is made of another one it lists, whose gradient would count twice; "
            "list what f reads itself, and share no weight of it with the injection.",
        )
        return u, self.execution.of(cell), start

    def classify(self, cell: BoundCell, state: State) -> Logits:
        """The logits of a state of this bound cell."""
        return self.head(cell.structure.unpack(state))

    def solution(
        self,
        x: Shaped[Tensor, "*image"],
        until: int | None = None,
        record: bool = False,
        initial: State | None = None,
        record_tail: bool = True,
    ) -> Solution:
        """The solve for x, which runs when its states are asked for.

        Args:
            x: the inputs.
            until: stop when z_until is reached, before f is evaluated there; None (or N + 1) for the whole solve.
            record: keep the graph of f at every state, where the solver evaluates it there alone.
            initial: z_0, to go on from another solve; None for the cell's own.
            record_tail: record the tail too, where the states are recorded.

        Raises:
            InputError: x is no batch of floating-point inputs.
        """
        u, cell, start = self.bind(x)
        initial = start if initial is None else initial
        return Solution(u, cell, initial, self.solver, self.tail, until, record, record_tail)

    def solve(self, x: Shaped[Tensor, "*image"]) -> Trajectory:
        """The trajectory of the solve for x, with its final state; no gradient is kept."""
        with torch.no_grad():
            solution = self.solution(x)
            return replace(solution.trajectory, tail=solution.final.flatten(1))

    def forward(self, x: Shaped[Tensor, "*image"]) -> Logits:
        """The logits of the final state; their gradient is `self.gradient`.

        Raises:
            InputError: x is no batch of inputs, or the gradient asks for a state that the model does not have.
        """
        return self.logits(self.solution(x, record=self.gradient is not None and self.gradient.records()))

    def logits(self, solution: Solution) -> Logits:
        """The logits of the final state of a solve; their gradient is `self.gradient`."""
        gradient = self.gradient
        if not torch.is_grad_enabled():
            return self.classify(solution.cell, solution.final)
        if gradient is None:
            return self.classify(solution.cell, self.tail(solution.cell, solution.start))
        gradient.check(self)
        state = gradient.read(solution)
        if not gradient.reads_final(self.tail):
            state = solution.final + (state - state.detach())
        return self.classify(solution.cell, state)
