"""What a solver remembers while it runs, and the inner products of it that decide its next increment."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from robustdeq.base.shapes import Flat, PerSample


@dataclass(frozen=True, eq=False)
class Products:
    """Inner products of the vectors in a solver's memory; the only input of `Solver.coefficients`.

    `increments[b, i, j]` = ⟨s_i, s_j⟩, `mixed[b, i, k]` = ⟨s_i, g_k⟩, `residuals[b, k, l]` = ⟨g_k, g_l⟩, oldest first.
    """

    increments: Float[Tensor, "batch p p"]
    mixed: Float[Tensor, "batch p q"]
    residuals: Float[Tensor, "batch q q"]

    @staticmethod
    def of(
        increments: Float[Tensor, "p batch dim"],
        residuals: Float[Tensor, "q batch dim"],
        gram: Float[Tensor, "batch p p"] | None = None,
    ) -> Products:
        """The products of these vectors; `gram` spares those of the increments where they are known."""
        s, g = increments.transpose(0, 1), residuals.transpose(0, 1)
        return Products(torch.bmm(s, s.mT) if gram is None else gram, torch.bmm(g, s.mT).mT, torch.bmm(g, g.mT))


class Window:
    """Consecutive rows of one preallocated (rows, B, D) buffer, oldest first.

    With fewer rows than will be pushed, the live rows move back to the front when the buffer is full, so that the
    window stays one contiguous slice.
    """

    def __init__(self, like: Flat, rows: int) -> None:
        self.buffer = like.new_empty((rows, *like.shape))
        self.start = 0
        self.stop = 0

    @property
    def vectors(self) -> Float[Tensor, "size batch dim"]:
        """The live rows."""
        return self.buffer[self.start : self.stop]

    def slot(self) -> Flat:
        """The row that the next `push` will make live."""
        if self.stop == len(self.buffer):
            live = self.vectors.clone()
            self.start, self.stop = 0, len(live)
            self.buffer[: self.stop] = live
        return self.buffer[self.stop]

    def push(self, capacity: int) -> None:
        """Make the slot live, and forget the oldest row beyond `capacity`."""
        self.stop += 1
        self.start = max(self.start, self.stop - capacity)


class Memory(ABC):
    """What a solver remembers during one solve.

    Attributes:
        window: the increments, where `increments` looks for them.
    """

    window: Window

    @abstractmethod
    def receive(self, value: Float[Tensor, "b dim"], state: Float[Tensor, "b dim"]) -> Float[Tensor, "b dim"]:
        """Take f(z_n) and z_n, keep the residual g_n = f(z_n) − z_n, and return it."""

    @abstractmethod
    def propose(self) -> Flat:
        """The increment s_n that the method would take from z_n, where `commit` will find it; it may overwrite g_n.

        The caller makes it what is taken, in place: zero for a frozen sample, shorter after a line search.
        """

    @abstractmethod
    def commit(self, shortenings: PerSample | None) -> None:
        """Remember the increment last proposed as the one that was taken, and how far a line search shortened it."""

    def increments(self, max_steps: int) -> Float[Tensor, "max_steps batch dim"]:
        """Every increment of the solve, zero where none was taken; only when all were kept."""
        self.window.buffer[self.window.stop :] = 0
        return self.window.buffer[:max_steps]

    def shortenings(self) -> Float[Tensor, "max_steps batch"] | None:
        """The factors by which a line search shortened the increments, where there was one."""
        return None

    def residual_vectors(self) -> Float[Tensor, "states batch dim"] | None:
        """The residuals g_0, g_1, …, where the method remembers more than the last."""
        return None
