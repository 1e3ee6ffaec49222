"""Attacks that serve to train: one step from noise beyond the ball, and solves that go on from the last."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from typing_extensions import override

from robustdeq.attacks import PGD
from robustdeq.base.errors import InputError, require
from robustdeq.base.shapes import Pixels
from robustdeq.deq import DEQ
from robustdeq.deq.gradients import Surrogate
from robustdeq.deq.model import Loss, StateGradient, total_loss
from robustdeq.deq.modes import frozen


@dataclass(frozen=True)
class NFGSM(PGD):
    """N-FGSM (de Jorge et al., "Make some noise", NeurIPS 2022): one step of ε from noise beyond the ball, unprojected.

    What it makes may leave the ball, though not the bounds of the pixels: it serves to train, never to evaluate. Of the
    settings of `PGD`, `steps` is 1, it starts at random, and `step_size` is the length of the step: ε as published, and
    as the default is for the default ε.

    Args:
        noise: the radius of the noise, in multiples of ε.

    Raises:
        InputError: a setting is out of its range.
    """

    step_size: float = 8 / 255
    steps: int = 1
    noise: float = 2.0

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps != 1 or self.norm != "Linf":
            raise InputError("N-FGSM makes 1 step in the norm Linf; use PGD for more steps or another norm.")
        if not (0 < self.noise < math.inf and self.random_start):
            raise InputError(f"noise is {self.noise} and random_start {self.random_start}; use PGD to start at images.")

    @property
    def projected(self) -> PGD:
        """PGD with its settings, within the ball; raises `InputError` where that would lose an override."""
        own, methods = type(self), ("start", "loss", "step", "run")
        lost = [name for name in methods if getattr(own, name) not in (getattr(PGD, name), getattr(NFGSM, name))]
        said = f"{own.__name__} overrides {', '.join(lost)}, which PGD of more steps would lose; derive it from PGD."
        require(not lost, said)
        return PGD(**{setting.name: getattr(self, setting.name) for setting in fields(PGD)})

    @override
    def start(self, x: Pixels, generator: torch.Generator) -> Pixels:
        return x + self.noise * self.eps * self.threat.measure.uniform(x, generator)

    @override
    def step(self, x: Tensor, gradient: Tensor, center: Tensor) -> Pixels:
        length = -self.step_size if self.targeted else self.step_size
        return self.threat.clip(x + length * self.threat.steepest(gradient, x))


class WarmStarted(Surrogate):
    """A surrogate that solves for each iterate of an attack from where its last solve ended.

    Consecutive iterates are close, and so are their fixed points; a later solve gets by with fewer steps.

    Args:
        deq: the model.
        gradient: the gradient.
        steps: solver steps of every solve but the first.

    Attributes:
        state: z* of the last solve; None before the first.

    Raises:
        InputError: the gradient reads an intermediate state, or one that the model lacks.
    """

    def __init__(self, deq: DEQ, gradient: StateGradient, steps: int) -> None:
        super().__init__(deq, gradient)
        until = gradient.until(deq)
        if until is not None and until < deq.last_state:
            raise InputError(
                f"{gradient!r} reads z_{until}, and a solve that goes on from another does not pass through it; "
                "set warm_steps to None, or choose a gradient of the final state."
            )
        self.state: Tensor | None = None
        self._read = gradient
        self._steps = steps

    @override
    def input_gradient(self, x: Pixels, loss: Loss) -> Pixels:
        deq = self.deq
        if self.state is not None:
            deq = deq.with_settings(solver=replace(deq.solver, max_steps=self._steps))
        with frozen(deq), torch.enable_grad():
            x = x.detach().requires_grad_()
            solution = deq.solution(x, record=self._read.records(), initial=self.state)
            logits = deq.classify(solution.cell, self._read.read(solution))
            gradient = torch.autograd.grad(total_loss(loss, logits), x)[0]
            trajectory = solution.trajectory
            self.state = trajectory.solution.view(trajectory.shape)
            return gradient
