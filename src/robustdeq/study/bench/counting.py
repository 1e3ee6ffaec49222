"""Counts that do not depend on the machine: evaluations of f, products, waits for the device, bytes allocated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from typing_extensions import override

from robustdeq.deq.cell import BoundCell, bind, initial_state
from robustdeq.deq.model import DEQ

_WAITS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)


@dataclass
class Evaluations:
    """How often f was evaluated and differentiated, each sample of a batch counted.

    Attributes:
        forward: evaluations of f.
        backward: vector-Jacobian products of f.
    """

    forward: int = 0
    backward: int = 0

    @property
    def total(self) -> int:
        """Both: a product with the Jacobian of a convolution costs what the convolution does."""
        return self.forward + self.backward


class _CountedCell(nn.Module):
    """A cell that counts how often it is evaluated and differentiated."""

    def __init__(self, cell: nn.Module, found: Evaluations) -> None:
        super().__init__()
        self.cell, self.found = cell, found

    def initial_state(self, u: Tensor) -> Tensor:
        return initial_state(self.cell, u)

    def bind(self, u: Tensor) -> BoundCell:
        bound, found = bind(self.cell, u), self.found

        def backward(cotangent: Tensor) -> None:
            found.backward += len(cotangent)

        def function(z: Tensor) -> Tensor:
            found.forward += len(z)
            value = bound(z)
            if value.requires_grad:
                value.register_hook(backward)
            return value

        return replace(bound, function=function)


@contextmanager
def counted(deq: DEQ) -> Iterator[Evaluations]:
    """Within it every evaluation of the model's cell is counted, and every vector-Jacobian product."""
    cell, found = deq.cell, Evaluations()
    deq.cell = _CountedCell(cell, found)
    try:
        yield found
    finally:
        deq.cell = cell


class Waits(TorchDispatchMode):
    """Within it the operations are counted for which the host waits for the device.

    Attributes:
        count: how many there were.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in _WAITS
        return func(*args, **kwargs or {})


class Allocations(TorchDispatchMode):
    """Within it the memory is counted that operations ask for, whether or not it is given back.

    Attributes:
        bytes: how much it was.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def storages(tree: Any) -> dict[int, int]:
            held = [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
            return {storage.data_ptr(): storage.nbytes() for storage in held}

        found = func(*args, **kwargs or {})
        known = storages((args, kwargs))
        self.bytes += sum(size for place, size in storages(found).items() if place not in known)
        return found
