"""The cell of a DEQ: bound to an input, evaluated in some precision, linearised at a state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

import torch
import torch._functorch.config
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from robustdeq.base.derivative import derivatives
from robustdeq.base.errors import check_choice, require
from robustdeq.base.shapes import Flat, State
from robustdeq.deq.structure import WHOLE, Structure, Tree

# Within it compiled functions are compiled, and differentiated, such that they may be pulled back through many times.
_pulled_back_often = torch._functorch.config.patch(donated_buffer=False)


@dataclass(frozen=True)
class BoundCell:
    """A cell with everything that is constant during one solve computed once.

    Attributes:
        function: z → f(z; u), on states of the cell's own shape.
        tensors: every tensor that f reads besides z, u first where it does; gradients of f stop there, so that none of
            them may be made of another.
        structure: how a state of several tensors lies in z; left to the model.
        apart: the same f of a copy of u that has no history, where u may be made of other tensors; left to `bind`.
    """

    function: Callable[[Tree], Tree]
    tensors: tuple[Tensor, ...]
    structure: Structure = WHOLE
    apart: BoundCell | None = None

    def __call__(self, z: State) -> Tensor:
        """f(z; u)."""
        return self.function(z)

    def packed(self, structure: Structure) -> BoundCell:
        """The same f on states that lie in one tensor."""
        apart = None if self.apart is None else self.apart.packed(structure)
        return replace(self, function=structure.packed(self.function), structure=structure, apart=apart)


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
        check_choice("precision", self.precision, Precision)

    def check(self, dtype: torch.dtype) -> None:
        """Raise `InputError` where f cannot be evaluated so in that precision of the weights."""
        require(
            self.precision == Precision.FULL or dtype == torch.float32,
            f"autocast within f halves torch.float32 alone, and the model is in {dtype}; convert it to that.",
        )

    def autocast(self, device: torch.device) -> torch.autocast:
        """The context in which f is evaluated."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == Precision.BFLOAT16)

    def of(self, cell: BoundCell) -> BoundCell:
        """The same f, evaluated this way."""
        if self == Execution():
            return cell
        function = cell.function
        if self.compiled:
            function = _pulled_back_often(torch.compile(function))

        def executed(z: Tensor) -> Tensor:
            with self.autocast(z.device):
                return function(z).to(z.dtype)

        return replace(cell, function=executed, apart=None if cell.apart is None else self.of(cell.apart))


def bind(cell: nn.Module, u: Tree) -> BoundCell:
    """Bind a cell to its injection: the cell's own `bind(u)` where it defines one, else `cell(·, u)` as it is."""
    own = getattr(cell, "bind", None)
    if own is not None:
        return own(u)
    parts, weights = tree_leaves(u), [*cell.parameters()]
    made = torch.is_grad_enabled() and any(part.grad_fn is not None for part in parts)
    apart = None
    if made and any(weight.requires_grad for weight in weights):
        apart = bind(cell, tree_map(lambda part: part.detach().requires_grad_(part.requires_grad), u))
    return BoundCell(lambda z: cell(z, u), (*parts, *weights), apart=apart)


def initial_state(cell: nn.Module, u: Tree) -> Tree:
    """z_0: `cell.initial_state(u)` where the cell defines it, else zeros of the shape of u."""
    own = getattr(cell, "initial_state", None)
    return tree_map(torch.zeros_like, u) if own is None else own(u)


class Linearization:
    """The cell at one state, evaluated with its graph, which ends at the tensors that it is bound to."""

    def __init__(self, cell: BoundCell, state: State) -> None:
        apart = cell.apart or cell
        self._bound = {id(tensor): own for tensor, own in zip(cell.tensors, apart.tensors, strict=True)}
        self._state = state.detach().requires_grad_()
        with torch.enable_grad():
            self._value = apart(self._state)

    @property
    def state(self) -> State:
        """Where f was evaluated."""
        return self._state.detach()

    @property
    def value(self) -> State:
        """f(z)."""
        return self._value.detach()

    @property
    def residual(self) -> Flat:
        """g(z) = f(z) − z, flat."""
        return (self._value - self._state).detach().flatten(1)

    def vjp(self, cotangent: Flat, to: tuple[Tensor, ...] = (), retain: bool = False) -> tuple[Flat, list[Tensor]]:
        """Jᵀ c for a flat cotangent c, flat, and (∂f/∂t)ᵀ c for each tensor t of `to`; `retain` keeps the graph."""
        state, *others = self.tensor_vjp(cotangent, (self._state, *to), retain)
        return state.flatten(1), others

    @_pulled_back_often
    def tensor_vjp(self, cotangent: Flat, to: tuple[Tensor, ...], retain: bool = False) -> list[Tensor]:
        """(∂f/∂t)ᵀ c alone, for each tensor t of `to`."""
        c = cotangent.reshape(self._value.shape)
        return derivatives(self._value, [self._bound.get(id(tensor), tensor) for tensor in to], c, retain)
