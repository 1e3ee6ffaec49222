"""The tail of a model: damped steps of the cell from z* (Eq. 6)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from robustdeq.base.errors import require
from robustdeq.base.shapes import State


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
        require(self.steps >= 0, f"steps is {self.steps}; a tail makes 0 or more steps.")
        require(0 < self.damping <= 1, f"damping is {self.damping}; give a number in (0, 1].")

    def walk(self, cell: Callable[[Tensor], Tensor], state: State, value: State | None = None) -> Iterator[State]:
        """Yield the state that the tail starts from and the state after each of its steps.

        Args:
            cell: f.
            state: where it starts.
            value: f there, where it is known already and is not to be evaluated again.
        """
        yield state
        for _ in range(self.steps):
            state = torch.lerp(state, cell(state) if value is None else value, self.damping)
            value = None
            yield state

    def __call__(self, cell: Callable[[Tensor], Tensor], state: State, value: State | None = None) -> State:
        """The state that the tail ends in; arguments as for `walk`."""
        *_, final = self.walk(cell, state, value)
        return final
