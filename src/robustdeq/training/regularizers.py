"""What is added to the loss to keep the solver in hand.

Jacobian regularisation (Bai, Koltun and Kolter, "Stabilizing equilibrium models by Jacobian regularization", ICML 2021)
and fixed-point correction (Bai, Geng, Savani and Kolter, "Deep equilibrium optical flow estimation", CVPR 2022).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from robustdeq.base.errors import InputError, require
from robustdeq.base.shapes import Labels
from robustdeq.deq.gradients.phantom import check_steps
from robustdeq.deq.model import DEQ
from robustdeq.deq.solve import Solution
from robustdeq.deq.tail import Unroll


def jacobian_penalty(solution: Solution, probes: int, generator: torch.Generator | None = None) -> Float[Tensor, ""]:
    """Hutchinson's estimate of ‖J‖_F² / D at z*, averaged over the batch, differentiable in the weights.

    E_v ‖Jᵀ v‖² = ‖J‖_F² for v from N(0, I).

    Args:
        solution: a solve, with the graph of its injection.
        probes: how many v are drawn.
        generator: where they are drawn from, on the device of the states; None for the default one.
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
        require(self.weight >= 0, f"the weight of the Jacobian penalty is {self.weight}; give 0 (none) or more.")
        if not 0 <= self.frequency <= 1 or not 0 <= self.until <= 1:
            raise InputError(
                f"frequency is {self.frequency} and until is {self.until}; give shares of the steps, in [0, 1]."
            )
        require(self.probes >= 1, f"probes is {self.probes}; the penalty needs at least 1 random vector.")
        for name in ("shorter", "longer"):
            require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}; give 0 or how many solver steps.")

    def draw(self, progress: float, generator: torch.Generator) -> int | None:
        """Whether this step is penalised (None if not), and by how many steps its solve is longer."""
        if self.weight == 0 or progress >= self.until:
            return None
        chosen = float(torch.rand((), generator=generator, dtype=torch.float32)) < self.frequency
        jitter = int(torch.randint(-self.shorter, self.longer + 1, (), generator=generator))
        return jitter if chosen else None


@dataclass(frozen=True)
class FixedPointCorrection:
    """The loss at states z_n on the way to z*, too: weight · Σ_j decay^(m − j) · L(ẑ_j), j = 1 … m.

    The states are evenly spaced along the trajectory, n_j = ⌊j N / (m + 1)⌋, all of them before the last; each is a
    constant from which k damped steps of f lead to ẑ_j, so that its loss has a phantom gradient (Eqs. 13–16). A
    trajectory of N ≤ m steps gives its N − 1 states. A sample that took no step beyond z_n, because it had converged or
    diverged there, is left out of the mean over the batch: what it repeats there is no intermediate state of its own,
    and the loss at its z* is counted already.

    Args:
        weight: the factor of the state nearest to z*; 0 for no correction. The published sum, whose weights go on to 1
            at z* itself, is the one with weight = decay.
        states: m.
        decay: in (0, 1], by which the factor falls from one state to the one before.
        steps: k.
        damping: λ.

    Raises:
        InputError: a setting is out of its range.
    """

    weight: float = 0.0
    states: int = 2
    decay: float = 0.8
    steps: int = 1
    damping: float = 1.0

    def __post_init__(self) -> None:
        require(self.weight >= 0, f"the weight of the fixed-point correction is {self.weight}; give 0 (none) or more.")
        require(self.states >= 1, f"states is {self.states}; the correction needs at least 1 intermediate state.")
        require(0 < self.decay <= 1, f"decay is {self.decay}; give a number in (0, 1].")
        check_steps(self.steps, self.damping)

    def penalty(self, deq: DEQ, solution: Solution, y: Labels) -> Float[Tensor, ""]:
        """The weighted sum of cross-entropies, differentiable in the weights of the whole model.

        The buffers of the head, its running statistics among them, are left to the loss at z*.

        Args:
            deq: the model.
            solution: its solve, with the graph of its injection.
            y: the labels, (B,).

        Returns:
            The sum, `weight` included.
        """
        trajectory = solution.trajectory
        total = trajectory.initial.new_zeros(())
        if self.weight == 0:
            return total
        count = min(self.states, trajectory.max_steps - 1)
        for j in range(1, count + 1):
            n = j * trajectory.max_steps // (count + 1)
            went_on = trajectory.steps > n
            start = torch.where(went_on[:, None], trajectory.flat_state(n), trajectory.solution)
            state = Unroll(self.steps, self.damping)(solution.cell, start.view(trajectory.shape))
            buffers = {name: buffer.clone() for name, buffer in deq.head.named_buffers()}
            logits = functional_call(deq.head, buffers, (solution.cell.structure.unpack(state),))
            losses = cross_entropy(logits, y, reduction="none")
            total = total + self.decay ** (count - j) * torch.where(went_on, losses, 0).mean()
        return self.weight * total


@dataclass(frozen=True)
class Regularization:
    """What is added to the loss of a DEQ.

    Args:
        jacobian: a penalty on the Jacobian at the fixed point.
        correction: the loss at intermediate states.
    """

    jacobian: JacobianRegularization = field(default_factory=JacobianRegularization)
    correction: FixedPointCorrection = field(default_factory=FixedPointCorrection)

    def penalties(self, deq: DEQ, solution: Solution, y: Labels, jacobian: bool) -> dict[str, Float[Tensor, ""]]:
        """What is added to the loss in one step, by name.

        Args:
            deq: the model.
            solution: its solve, with the graph of its injection.
            y: the labels, (B,).
            jacobian: whether the Jacobian was drawn to be penalised in this step.
        """
        penalties: dict[str, Tensor] = {}
        if jacobian:
            penalties["jacobian"] = self.jacobian.weight * jacobian_penalty(solution, self.jacobian.probes)
        if self.correction.weight > 0:
            penalties["correction"] = self.correction.penalty(deq, solution, y)
        return penalties
