"""Jacobian regularisation (Bai, Koltun and Kolter, "Stabilizing equilibrium models", ICML 2021)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from robustdeq.errors import InputError
from robustdeq.models.deq import Solution


def jacobian_penalty(solution: Solution, probes: int, generator: torch.Generator | None = None) -> Float[Tensor, ""]:
    """Hutchinson's estimate of ‖J‖_F² / D at z*, averaged over the batch, differentiable in the weights.

    E_v ‖Jᵀ v‖² = ‖J‖_F² for v from N(0, I).

    Args:
        solution: a solve, with the graph of its injection.
        probes: how many v are drawn.
        generator: where they are drawn from.
    """
    trajectory = solution.trajectory
    state = trajectory.solution.view(trajectory.shape).detach().requires_grad_()
    value = solution.cell(state)
    total = value.new_zeros(())
    for _ in range(probes):
        v = torch.randn(value.shape, generator=generator, dtype=value.dtype, device=value.device)
        (product,) = torch.autograd.grad(value, state, v, create_graph=True)
        total = total + product.square().mean()
    return total / probes


@dataclass(frozen=True)
class JacobianRegularization:
    """When and how strongly the penalty is added; the defaults are the published ones.

    Args:
        weight: the factor of the penalty; 0 for none.
        frequency: the share of the steps, drawn at random, on which it is added.
        until: the share of the training after which it stops (epoch 90 of 220).
        probes: how many random vectors estimate it.
        shorter: on these steps the solver may make up to this many steps fewer …
        longer: … or up to this many more.

    Raises:
        InputError: a setting is out of its range.
    """

    weight: float = 0.0
    frequency: float = 0.02
    until: float = 90 / 220
    probes: int = 2
    shorter: int = 2
    longer: int = 1

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise InputError(f"the weight of the Jacobian penalty is {self.weight}; give 0 (none) or more.")
        if not 0 <= self.frequency <= 1 or not 0 <= self.until <= 1:
            raise InputError(
                f"frequency is {self.frequency} and until is {self.until}; give shares of the steps, in [0, 1]."
            )
        if self.probes < 1:
            raise InputError(f"probes is {self.probes}; the penalty needs at least 1 random vector.")
        for name in ("shorter", "longer"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}; give 0 or how many solver steps.")

    def draw(self, progress: float, generator: torch.Generator) -> int | None:
        """Whether this step is penalised (None if not), and by how many steps its solve is longer."""
        if self.weight == 0 or progress >= self.until:
            return None
        chosen = float(torch.rand((), generator=generator)) < self.frequency
        jitter = int(torch.randint(-self.shorter, self.longer + 1, (), generator=generator))
        return jitter if chosen else None
