"""What is attacked: a model, read through one or several defenses, or an explicit network as it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from robustdeq.base.errors import InputError
from robustdeq.deq import DEQ, Defended, EntropyReduced, EntropyReduction
from robustdeq.deq.defenses import FinalState, StateDefense, defended_logits
from robustdeq.deq.gradients import Gradient, Surrogate


class Subject(ABC):
    """A model and the rows of its table."""

    @property
    @abstractmethod
    def model(self) -> nn.Module:
        """The model itself."""

    @property
    @abstractmethod
    def rows(self) -> tuple[str, ...]:
        """The names of its readings, one per row of the table."""

    @property
    def searched(self) -> str:
        """The row that decides which of several candidates is the strongest."""
        return self.rows[0]

    @abstractmethod
    def reader(self, row: str) -> nn.Module:
        """The module x → logits behind a row, differentiated truly."""

    @abstractmethod
    def logits(self, x: Float[Tensor, "batch *image"]) -> list[Float[Tensor, "batch classes"]]:
        """The logits of every row."""

    def surrogate(self, gradient: Gradient) -> Surrogate:
        """The model with that gradient as its backward pass; raises `InputError` where it is no DEQ."""
        if not isinstance(self.model, DEQ):
            raise InputError("an explicit network has one gradient, its own; attack it with gradient=None.")
        return Surrogate(self.model, gradient)

    @abstractmethod
    def passes(self) -> int:
        """What one reading costs, in forward passes of the cell (or of the network)."""


@dataclass(frozen=True)
class DefendedDEQ(Subject):
    """A DEQ under several defenses, all of them judged from one solve.

    Args:
        deq: the model.
        defenses: name → defense; `"early"` is the row that candidates are searched on, where it is there.

    Raises:
        InputError: a defense reads a state that the model does not have.
    """

    deq: DEQ
    defenses: Mapping[str, StateDefense]

    def __post_init__(self) -> None:
        for defense in self.defenses.values():
            defense.check(self.deq)

    @property
    @override
    def model(self) -> DEQ:
        return self.deq

    @property
    @override
    def rows(self) -> tuple[str, ...]:
        return tuple(self.defenses)

    @property
    @override
    def searched(self) -> str:
        return "early" if "early" in self.defenses else self.rows[0]

    @cached_property
    def _readers(self) -> dict[str, nn.Module]:
        return {name: Defended(self.deq, defense) for name, defense in self.defenses.items()}

    @override
    def reader(self, row: str) -> nn.Module:
        return self._readers[row]

    @override
    def logits(self, x: Float[Tensor, "batch *image"]) -> list[Float[Tensor, "batch classes"]]:
        return defended_logits(self.deq, x, list(self.defenses.values()))

    @override
    def passes(self) -> int:
        return self.deq.evaluations(None)


@dataclass(frozen=True)
class ReducedDEQ(Subject):
    """A DEQ as it is, and under input entropy reduction.

    Args:
        deq: the model.
        reduction: the settings of the defense.
    """

    deq: DEQ
    reduction: EntropyReduction

    @property
    @override
    def model(self) -> DEQ:
        return self.deq

    @property
    @override
    def rows(self) -> tuple[str, ...]:
        return ("undefended", "entropy reduction")

    @cached_property
    def _readers(self) -> dict[str, nn.Module]:
        readers = (Defended(self.deq, FinalState()), EntropyReduced(self.deq, self.reduction))
        return dict(zip(self.rows, readers, strict=True))

    @override
    def reader(self, row: str) -> nn.Module:
        return self._readers[row]

    @override
    @torch.no_grad()
    def logits(self, x: Float[Tensor, "batch *image"]) -> list[Float[Tensor, "batch classes"]]:
        return [reader(x) for reader in self._readers.values()]

    @override
    def passes(self) -> int:
        moves = len(self.reduction.segments(self.deq.solver.max_steps)) - 1
        return 2 * self.deq.evaluations(None) + 3 * moves * self.reduction.steps


@dataclass(frozen=True)
class Network(Subject):
    """An explicit network, or any other module x → logits, as it is: a table of one row.

    Args:
        network: the module.
        row: the name of its row.
    """

    network: nn.Module
    row: str = "network"

    @property
    @override
    def model(self) -> nn.Module:
        return self.network

    @property
    @override
    def rows(self) -> tuple[str, ...]:
        return (self.row,)

    @override
    def reader(self, row: str) -> nn.Module:
        return self.network

    @override
    @torch.no_grad()
    def logits(self, x: Float[Tensor, "batch *image"]) -> list[Float[Tensor, "batch classes"]]:
        return [self.network(x)]

    @override
    def passes(self) -> int:
        return 1
