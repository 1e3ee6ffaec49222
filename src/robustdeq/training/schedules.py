"""What changes while a model is trained: the learning rate, and how many steps its solver makes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from robustdeq.base.errors import InputError, check_choice, require

# What is left of the learning rate at a share of its decay.
_DECAYS: Mapping[str, Callable[[float], float]] = {
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
    "linear": lambda progress: 1 - progress,
}


@dataclass(frozen=True)
class Optimization:
    """The optimiser, with linear warm-up and a schedule; the defaults are the published ones.

    Args:
        learning_rate: at its highest.
        final_learning_rate: at the end.
        warmup: the share of the steps over which it rises from 0.
        weight_decay: decoupled with adamw, in the gradient with sgd.
        clip_norm: the most that the norm of the gradient may be; None for no clipping.
        decay: how it falls after the warm-up, `"cosine"` or `"linear"` (a cyclic schedule).
        algorithm: `"adamw"` (decoupled weight decay) or `"sgd"` (Nesterov momentum).
        momentum: of sgd; of adamw, the β₁.

    Raises:
        InputError: a setting is out of its range.
    """

    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-6
    warmup: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float | None = None
    decay: str = "cosine"
    algorithm: str = "adamw"
    momentum: float = 0.9

    def __post_init__(self) -> None:
        require(self.learning_rate > 0, f"learning_rate is {self.learning_rate}; give a positive number.")
        require(0 <= self.warmup < 1, f"warmup is {self.warmup}; give a share of the steps, in [0, 1).")
        for name in ("final_learning_rate", "weight_decay"):
            require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}; give 0 or a positive number.")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise InputError(f"clip_norm is {self.clip_norm}; give a positive number, or None for no clipping.")
        require(0 <= self.momentum < 1, f"momentum is {self.momentum}; give a number in [0, 1).")
        check_choice("decay", self.decay, _DECAYS)
        check_choice("algorithm", self.algorithm, ("adamw", "sgd"))

    def factor(self, progress: float) -> float:
        """The learning rate at a share of the training, as a multiple of its highest."""
        if progress < self.warmup:
            return max(progress / self.warmup, 1e-2)
        floor = self.final_learning_rate / self.learning_rate
        return floor + (1 - floor) * _DECAYS[self.decay]((progress - self.warmup) / (1 - self.warmup))

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimiser of a model's parameters, at the highest learning rate."""
        shared: dict[str, Any] = {"lr": self.learning_rate, "weight_decay": self.weight_decay}
        if self.algorithm == "sgd":
            return torch.optim.SGD(model.parameters(), momentum=self.momentum, nesterov=self.momentum > 0, **shared)
        return torch.optim.AdamW(model.parameters(), betas=(self.momentum, 0.999), **shared)

    def scheduler(self, optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
        """The schedule over so many steps."""
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.factor(min(step / steps, 1.0)))


@dataclass(frozen=True)
class SolverSteps:
    """Few solver steps at first and more at the end: a cheap stand-in for the fixed point, while it is still moving.

    Args:
        counts: solver steps of each phase; empty for the model's own throughout.
        starts: the share of the training at which each phase begins, the first 0.
        asynchronous: take all steps, whatever the tolerance, so that the host never waits for the device.

    Raises:
        InputError: counts and starts do not fit, or are out of their range.
    """

    counts: Sequence[int] = ()
    starts: Sequence[float] = ()
    asynchronous: bool = False

    def __post_init__(self) -> None:
        if len(self.counts) != len(self.starts):
            raise InputError(f"there are {len(self.counts)} counts and {len(self.starts)} starts; give one of each.")
        if any(count < 1 for count in self.counts):
            raise InputError(f"counts are {list(self.counts)}; a solver makes at least 1 step.")
        rising = all(early < late for early, late in pairwise(self.starts))
        if self.starts and (self.starts[0] != 0 or not rising or self.starts[-1] >= 1):
            raise InputError(f"starts are {list(self.starts)}; give shares of the training that rise from 0, below 1.")

    def at(self, progress: float) -> dict[str, int | float]:
        """The settings of the solver at a share of the training that differ from the model's own."""
        begun = [count for count, start in zip(self.counts, self.starts, strict=True) if progress >= start]
        steps: dict[str, int | float] = {"max_steps": begun[-1]} if begun else {}
        return steps | ({"tol": 0.0} if self.asynchronous else {})
