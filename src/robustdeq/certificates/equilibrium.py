"""How far a computed state may lie from the equilibrium: ‖z − z*‖ ≤ ‖r‖ + ‖W r‖ / m, where r = z − max(W z + u, 0).

For z − r = max(W (z − r) + W r + u, 0) is the equilibrium of u + W r, and equilibria are no further apart than 1 / m
times what is injected. All of it is computed in float64 from the very numbers that the model holds, and its own
rounding is bounded and added (Higham, "Accuracy and stability of numerical algorithms", Section 3.1).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robustdeq.base.errors import InputError
from robustdeq.base.provenance import hooks
from robustdeq.base.shapes import Logits, PerSample, Pixels
from robustdeq.certificates.affine import magnified
from robustdeq.deq import DEQ
from robustdeq.deq.monotone import MonotoneDEQ
from robustdeq.deq.monotone.kernels import Grid, Kernel, apply

ROUNDING = 1e-11
"""More than the relative rounding errors, in float64, of all that is added up to an entry: the kernel AᵀA, its
convolution, whose sum is up to (5/3)² times as long, the injection and the classifier, of `_LONGEST` products each."""
_LONGEST = 8_000
_RESHAPED = 64
"""More than the additions of pooling and normalisation behind one input of a linear layer."""


@dataclass(frozen=True)
class Equilibrium:
    """A monotone DEQ, and what bounds how its equilibrium moves.

    Args:
        deployed: the model as it is used.
        deq: the same in float64, in eval mode.

    Raises:
        InputError: it is not strongly monotone by its m, not affine around its equilibrium, or has hooks, as
            `torch.nn.utils.spectral_norm` adds them, which may compute anything.
    """

    deployed: MonotoneDEQ
    deq: MonotoneDEQ

    def __post_init__(self) -> None:
        for part in filter(hooks, self.deq.modules()):
            raise InputError(f"a certificate cannot see through the hooks of a {type(part).__name__}; take them off.")
        self.deq.operator.modulus()
        longest = max(weight[0].numel() for weight in self.deq.parameters() if weight.ndim > 1)
        if longest > _LONGEST:
            raise InputError(f"a layer adds up {longest} products, and rounding is bounded for {_LONGEST}; split it.")
        magnified(self.deq.classifier)

    @cached_property
    def modulus(self) -> float:
        """By how much it is strongly monotone, m."""
        return self.deq.operator.modulus()

    @cached_property
    def kernel(self) -> Kernel:
        """W."""
        return self.deq.operator.kernel().detach()

    @cached_property
    def magnitude(self) -> Kernel:
        """What rounding errors of W z scale by."""
        return self.deq.operator.magnitude().detach()

    @cached_property
    def injected(self) -> nn.Module:
        """The injection with absolute weights."""
        return magnified(self.deq.injection)

    @cached_property
    def classified(self) -> nn.Module:
        """The classifier with absolute weights."""
        return magnified(self.deq.classifier)

    @cached_property
    def growth(self) -> float:
        """A bound on ‖W z‖ / ‖z‖ in the norm of the operator."""
        return self.deq.operator.growth(self.kernel.abs() + ROUNDING * self.magnitude)

    def solved(self, x: Pixels) -> tuple[Pixels, Grid, Logits]:
        """The images in float64, and the states and logits that the model as it is used makes of them."""
        z = self.deployed.equilibrium(x).double()
        return x.double(), self.deq.cell.positive(z), self.deployed(x)

    def error(self, x: Pixels, z: Grid) -> PerSample:
        """A bound on ‖z − z*‖ in the norm of the operator.

        Args:
            x: the images.
            z: the states that were computed for them.
        """
        residual, rounding = self.residual(x, z)
        size, moved = self.deq.operator.norm.size, apply(self.kernel, residual)
        moved = moved.abs() + apply(self.magnitude, ROUNDING * residual.abs())
        errors = size(residual.abs() + rounding) + (size(moved) + self.growth * size(rounding)) / self.modulus
        return errors * (1 + ROUNDING)

    def residual(self, x: Pixels, z: Grid) -> tuple[Grid, Grid]:
        """The residual r of states, and a bound on how much rounding may have changed each entry of it."""
        scale = self.injected(x.abs()) + apply(self.magnitude, z.abs()) + z.abs()
        return self.deq.residual(x, z), ROUNDING * scale

    def norm_of_residual(self, x: Pixels, z: Grid) -> PerSample:
        """A bound on ‖r‖ in the norm of the operator."""
        residual, rounding = self.residual(x, z)
        return self.deq.operator.norm.size(residual.abs() + rounding)

    def tolerance(self, solved: Sequence[tuple[Pixels, Grid, Logits]]) -> float:
        """Ten times the median norm of the residuals that `solved` found; a solve that goes well stays below."""
        norms = torch.cat([self.norm_of_residual(x, z) for x, z, _ in solved])
        return 10 * float(norms.median())

    def rounding_unit(self) -> float:
        """The relative error of a logit as the model computes it from a state, against |H| |z| + |b|."""
        weights = [weight for weight in self.deployed.classifier.parameters() if weight.ndim > 1]
        terms = sum(weight[0].numel() + 2 for weight in weights)
        return (terms + _RESHAPED) * torch.finfo(weights[0].dtype).eps

    def tolerated(self, tolerance: float) -> float:
        """A bound on ‖z − z*‖ for every state whose residual has no larger norm than the tolerance."""
        return tolerance * (1 + self.growth / self.modulus)


def equilibrium(model: nn.Module) -> Equilibrium:
    """What is known of a model's equilibrium; raises `InputError` unless it is a monotone DEQ."""
    if not isinstance(model, MonotoneDEQ):
        kind = "has no modulus of monotonicity" if isinstance(model, DEQ) else "has no equilibrium"
        raise InputError(
            f"{type(model).__name__} {kind}, so that nothing bounds how far its answers move; certify a monotone DEQ, "
            "or use randomized smoothing."
        )
    return Equilibrium(model, copy.deepcopy(model).double().requires_grad_(False).eval())


def differences(logits: Float[Tensor, "batch classes"], winner: Tensor) -> Float[Tensor, "batch classes"]:
    """By how much the winner's logit exceeds each other; infinite at the winner itself."""
    margins = logits.gather(1, winner[:, None]) - logits
    return margins.scatter(1, winner[:, None], torch.inf)


def paired(values: Float[Tensor, "batch classes"], winner: Tensor) -> Float[Tensor, "batch classes"]:
    """The value of the winner added to that of each class."""
    return values + values.gather(1, winner[:, None])
