"""Stand-ins: smooth functions whose derivative serves where an operation has none.

Rounding: the identity. A comparison a > b: the logistic function of a − b. The index of a maximum: the softmax, and for
what is looked up by it, the mean under the softmax. Integers and truth values carry a stand-in of their own until they
become numbers with a derivative again. Numbers that such a value only chooses among keep the derivative they have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

_GREATER = frozenset({"gt", "ge", "greater", "greater_equal", "__gt__", "__ge__"})
_LESS = frozenset({"lt", "le", "less", "less_equal", "__lt__", "__le__"})
_SAME, _OTHER = frozenset({"eq", "__eq__"}), frozenset({"ne", "not_equal", "__ne__"})
_STEPS = frozenset({"round", "floor", "ceil", "trunc", "fix", "sign", "sgn", "heaviside", "rint"})
_DIVISIONS = frozenset({"div", "divide"})
_WHOLE_DIVISIONS = frozenset({"floor_divide", "__floordiv__"})
_REMAINDERS = frozenset({"remainder", "fmod", "__mod__"})
_NOT = frozenset({"logical_not", "bitwise_not", "__invert__"})


_LEADING = ("condition", "input", "other")
"""What torch calls its first arguments, in order."""
_FOLLOWING = ("dim", "mask", "index", "src", "value")
"""What it calls those that come next where something is looked up or filled in, in order."""
_LOOKING_UP = frozenset({"index_select", "scatter", "scatter_", "masked_fill", "masked_fill_"})


@dataclass(frozen=True, eq=False)
class StandIn:
    """What stands for a tensor under differentiation.

    Attributes:
        value: of the same shape, with a graph.
        shares: for an index, the share of each of its values, (…, K).
    """

    value: Tensor
    shares: Tensor | None = None


@dataclass(frozen=True)
class Call:
    """A call of torch.

    Attributes:
        function: what is called.
        args: its arguments.
        kwargs: those by name; the first ones are moved to `args`.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def __post_init__(self) -> None:
        names = _LEADING + (_FOLLOWING if self.name in _LOOKING_UP else ())
        named = [self.kwargs[name] for name in names if name in self.kwargs]
        rest = {name: own for name, own in self.kwargs.items() if name not in names}
        object.__setattr__(self, "args", (*self.args, *named))
        object.__setattr__(self, "kwargs", rest)

    @property
    def name(self) -> str:
        """What torch calls the function."""
        return self.function.__name__

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors among the arguments."""
        return [leaf for leaf in tree_leaves((self.args, dict(self.kwargs))) if isinstance(leaf, Tensor)]

    @property
    def in_steps(self) -> bool:
        """Whether the result is piecewise constant, or the remainder of something that is."""
        rounded = self.name in _DIVISIONS and self.kwargs.get("rounding_mode") is not None
        return rounded or self.name in _STEPS | _WHOLE_DIVISIONS | _REMAINDERS

    @property
    def in_steps_in_place(self) -> bool:
        """Whether a tensor is rounded where it lies."""
        return self.name.removesuffix("_") in _STEPS and self.name.endswith("_")

    def run(self, *args: Any) -> Any:
        """The result, for these arguments instead of its own where some are given."""
        return self.function(*(args or self.args), **self.kwargs)


def stand_in(call: Call, made: Tensor) -> StandIn | None:
    """What stands for the result of a call on tensors that have a graph; None where nothing is known to."""
    first = next(tensor for tensor in call.tensors if tensor.requires_grad)
    if call.name in _DIVISIONS | _WHOLE_DIVISIONS:
        return StandIn(torch.true_divide(*call.args[:2]))
    if call.name in _REMAINDERS:
        return StandIn(made.detach())
    if call.name in _GREATER | _LESS | _SAME | _OTHER:
        return StandIn(_compared(call.name, *map(torch.as_tensor, call.args[:2])))
    if call.name in ("argmax", "argmin"):
        return _chosen(call.name, first, *call.args[1:], **call.kwargs)
    return StandIn(first) if first.shape == made.shape else None


def carried_on(call: Call, made: Tensor, known: Mapping[int, StandIn]) -> StandIn | None:
    """What stands for the result of a call on tensors that something stands for; None where nothing is known to.

    Args:
        call: the call.
        made: its result.
        known: what stands for its arguments, by their `id`.
    """
    args, own = call.args, known.get(id(call.args[0])) if call.args else None
    shares = next((stand_in.shares for stand_in in known.values() if stand_in.shares is not None), None)
    if shares is not None and (found := _looked_up(call, made, shares)) is not None:
        return StandIn(found)
    if call.name == "where" and own is not None and len(args) == 3:
        return _chosen_by(own, torch.as_tensor(args[1]) - torch.as_tensor(args[2]), made)
    if call.name in ("masked_fill", "masked_fill_") and id(args[1]) in known:
        return _chosen_by(known[id(args[1])], made - args[0], made)
    if call.name in _NOT and own is not None:
        return StandIn(-own.value)
    values, named = tree_map(
        lambda leaf: known[id(leaf)].value if id(leaf) in known else leaf, (args, dict(call.kwargs))
    )
    if call.name in _DIVISIONS | _WHOLE_DIVISIONS:
        return StandIn(torch.true_divide(*values[:2]))
    in_place = bool(args) and made is args[0]
    try:
        rest = {name: own for name, own in named.items() if name != "dtype"}
        value = None if in_place else call.function(*values, **rest)
    except (RuntimeError, TypeError, IndexError, ValueError):
        value = None
    if isinstance(value, Tensor) and value.requires_grad and value.shape == made.shape:
        return StandIn(value)
    if made.requires_grad:
        return None
    return next((stand_in for stand_in in known.values() if stand_in.value.shape == made.shape), None)


def _compared(name: str, a: Tensor, b: Tensor) -> Tensor:
    """For the truth of a comparison."""
    if name in _GREATER | _LESS:
        return torch.sigmoid(a - b if name in _GREATER else b - a)
    near = torch.exp(-((a - b) ** 2))
    return near if name in _SAME else 1 - near


def _chosen_by(condition: StandIn, difference: Tensor, made: Tensor) -> StandIn:
    """For what a condition chose, given what it would be if the condition held less what it would be otherwise."""
    finite = difference.detach().masked_fill(~difference.isfinite(), 0)
    return StandIn((made if made.is_floating_point() else 0) + condition.value * finite)


def _chosen(name: str, x: Tensor, dim: int | None = None, keepdim: bool = False) -> StandIn:
    """For the index of the greatest or the least value: its mean under the softmax."""
    values = x.flatten() if dim is None else x.movedim(dim, -1)
    shares = (values if name == "argmax" else -values).softmax(dim=-1)
    mean = (shares * torch.arange(shares.shape[-1], device=x.device)).sum(dim=-1)
    if keepdim and dim is not None:
        mean, shares = mean.unsqueeze(dim), shares.unsqueeze(dim if dim >= 0 else dim - 1)
    return StandIn(mean, shares)


def _looked_up(call: Call, made: Tensor, shares: Tensor) -> Tensor | None:
    """For what an index looks up, given the shares of its values; None where the call does not look up."""
    count, args = shares.shape[-1], call.args
    if call.name == "one_hot":
        return nn.functional.pad(shares, (0, made.shape[-1] - count))
    if call.name in _SAME | _OTHER and isinstance(args[1], int) and 0 <= args[1] < count:
        return shares[..., args[1]] if call.name in _SAME else 1 - shares[..., args[1]]
    if call.name in ("scatter", "scatter_") and shares.ndim == made.ndim + 1 and not made.requires_grad:
        dim = args[1] % made.ndim
        return shares.squeeze(dim).movedim(-1, dim)
    table = {"embedding": args[-1], "__getitem__": args[0], "index_select": args[0]}.get(call.name)
    if isinstance(table, Tensor) and table.is_floating_point() and len(table) == count:
        mean = torch.tensordot(shares, table.detach(), dims=1)
        return made + mean if mean.shape == made.shape else None
    return None
