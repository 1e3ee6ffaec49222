"""Counts that do not depend on the machine: evaluations of f, and products with its Jacobian."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from torch import Tensor, nn

from robustdeq.deq.cell import BoundCell, bind, initial_state
from robustdeq.deq.model import DEQ


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
