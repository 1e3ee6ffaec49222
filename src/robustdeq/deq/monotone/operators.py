"""The linear part W of a monotone DEQ, z* = ReLU(W z* + u), such that there is one z* for every u.

Two parametrisations, in two norms:

- `Monotone` (Winston and Kolter, "Monotone operator equilibrium networks", NeurIPS 2020, Proposition 1):
  W = (1 − m) I − AᵀA + B − Bᵀ, so that ⟨z, (I − W) z⟩ ≥ m ‖z‖₂²;
- `Contracting` (Jafarpour et al., "Robust implicit networks via non-Euclidean contractions", NeurIPS 2021, Lemma 10):
  W = T − diag(Σ_j |T_ij|) + (1 − m) I, so that W_ii + Σ_{j≠i} |W_ij| ≤ 1 − m.

In both, ‖z*(u) − z*(u')‖ ≤ ‖u − u'‖ / m, in the Euclidean norm and in the largest entry.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from robustdeq.base.errors import InputError, require
from robustdeq.base.norms import L1, L2, Linf, Norm
from robustdeq.deq.monotone.kernels import Kernel, composed, diagonal, padded, symbol, transposed

_ROUNDING = 1e-10
"""What rounding in float64 may do to an eigenvalue of a matrix of up to 10,000 rows, relative to the largest."""


class Operator(nn.Module, ABC):
    """W, a circular convolution on a grid; a matrix where the grid has one position.

    Args:
        channels: of the state.
        side: of the kernels of its parameters, in positions; odd.
        sides: height and width of the grid.
        m: the modulus of strong monotonicity, positive.

    Attributes:
        norm: in which it is strongly monotone.
        dual: the norm in which a functional is measured, so that |⟨c, z⟩| ≤ ‖c‖ ‖z‖.

    Raises:
        InputError: a setting is out of its range.
    """

    norm: Norm
    dual: Norm

    def __init__(self, channels: int, side: int, sides: tuple[int, int], m: float) -> None:
        super().__init__()
        require(channels > 0 and min(sides) > 0, f"a state of {channels} channels on {sides} positions holds nothing.")
        require(side % 2 == 1 and side > 0, f"the side of a kernel is {side}; give an odd number.")
        if not 0 < m < math.inf:
            raise InputError(
                f"m is {m:g}; give a positive modulus, without which there may be no equilibrium, or many."
            )
        self.channels, self.side, self.sides, self.m = channels, side, sides, m

    @abstractmethod
    def kernel(self) -> Kernel:
        """W."""

    @abstractmethod
    def magnitude(self) -> Kernel:
        """The absolute values of all that adds up to W, entry by entry, summed: its rounding errors scale by this."""

    @abstractmethod
    def growth(self, kernel: Kernel) -> float:
        """A bound on ‖K z‖ / ‖z‖ in its norm, for a kernel K."""

    @abstractmethod
    def step(self, kernel: Kernel) -> Float[Tensor, ""]:
        """An α > 0 for which a step of forward-backward splitting brings every state nearer to z*."""

    @abstractmethod
    def reflected_step(self, kernel: Kernel) -> Float[Tensor, ""]:
        """The same for a step of Peaceman-Rachford splitting."""

    def modulus(self) -> float:
        """By how much it is strongly monotone for certain; raises `InputError` unless that is positive, and m."""
        finite = all(bool(weight.isfinite().all()) for weight in self.parameters())
        require(finite, "the weights of the monotone layer are not finite; take an earlier checkpoint.")
        return self.m

    def identity(self, scale: float, side: int) -> Kernel:
        """The kernel of z → scale · z."""
        weight = next(self.parameters())
        return diagonal(weight.new_full((self.channels,), scale), side)

    def _drawn(self) -> nn.Parameter:
        """A kernel with fresh entries, of a spectral norm of about 1/2 whatever its size."""
        size = (self.channels, self.channels, self.side, self.side)
        return nn.Parameter(torch.randn(size) / (4 * math.sqrt(self.channels) * self.side))


class Euclidean(Operator):
    """An operator that is strongly monotone in the Euclidean norm; arguments as for `Operator`."""

    norm = dual = L2()

    @override
    def growth(self, kernel: Kernel) -> float:
        """Schur's test: √(‖K‖₁ ‖K‖_∞)."""
        sizes = kernel.abs().sum(dim=(2, 3))
        return math.sqrt(float(sizes.sum(dim=0).max()) * float(sizes.sum(dim=1).max()))

    @override
    def step(self, kernel: Kernel) -> Float[Tensor, ""]:
        """α = m / ‖I − W‖², the best that m and the norm promise: each step by √(1 − m² / ‖I − W‖²) nearer."""
        return self.m / self._largest(kernel) ** 2

    @override
    def reflected_step(self, kernel: Kernel) -> Float[Tensor, ""]:
        """α = m^{-1/4} ‖I − W‖^{-3/4}, between the best for a skew I − W and the best for a symmetric one.

        Every α > 0 brings states nearer. m and the norm alone promise most of 1 / ‖I − W‖, where I − W may be skew but
        for m I, and of (m ‖I − W‖)^{-1/2} where it is symmetric (Giselsson and Boyd, "Linear convergence and metric
        selection for Douglas-Rachford splitting and ADMM", 2017). This is their geometric mean.
        """
        return (self.m * self._largest(kernel) ** 3) ** -0.25

    def _largest(self, kernel: Kernel) -> Float[Tensor, ""]:
        """‖I − W‖."""
        apart = symbol(self.identity(1.0, kernel.shape[-1]) - kernel, self.sides)
        return torch.linalg.eigvalsh(apart.mH @ apart).max().sqrt()


class Monotone(Euclidean):
    """W = (1 − m) I − AᵀA + B − Bᵀ; arguments as for `Operator`."""

    def __init__(self, channels: int, side: int, sides: tuple[int, int], m: float) -> None:
        super().__init__(channels, side, sides, m)
        self.a, self.b = self._drawn(), self._drawn()

    @override
    def kernel(self) -> Kernel:
        gram = composed(transposed(self.a), self.a)
        skew = padded(self.b - transposed(self.b), gram.shape[-1])
        return self.identity(1 - self.m, gram.shape[-1]) - gram + skew

    @override
    def magnitude(self) -> Kernel:
        a, b = self.a.abs(), self.b.abs()
        gram = composed(transposed(a), a)
        return self.identity(1 + self.m, gram.shape[-1]) + gram + padded(b + transposed(b), gram.shape[-1])


class Contracting(Operator):
    """W = T − diag(Σ_j |T_ij|) + (1 − m) I; arguments as for `Operator`."""

    norm, dual = Linf(), L1()

    def __init__(self, channels: int, side: int, sides: tuple[int, int], m: float) -> None:
        super().__init__(channels, side, sides, m)
        self.t = self._drawn()

    @override
    def kernel(self) -> Kernel:
        return self.t - diagonal(self.t.abs().sum(dim=(1, 2, 3)), self.side) + self.identity(1 - self.m, self.side)

    @override
    def magnitude(self) -> Kernel:
        t = self.t.abs()
        return t + diagonal(t.sum(dim=(1, 2, 3)), self.side) + self.identity(1 + self.m, self.side)

    @override
    def growth(self, kernel: Kernel) -> float:
        return float(kernel.abs().sum(dim=(1, 2, 3)).max())

    @override
    def step(self, kernel: Kernel) -> Float[Tensor, ""]:
        return largest_step(kernel)

    @override
    def reflected_step(self, kernel: Kernel) -> Float[Tensor, ""]:
        return largest_step(kernel)


class Given(Euclidean):
    """W as somebody gives it, and the m that they say it has; arguments as for `Operator`, but for the kernel.

    Args:
        weight: the kernel of W, or a matrix.
        sides: height and width of the grid.
        m: its modulus, which `modulus` holds against the eigenvalues of I − (W + Wᵀ) / 2.
    """

    def __init__(
        self, weight: Float[Tensor, "channels channels *square"], m: float, sides: tuple[int, int] = (1, 1)
    ) -> None:
        weight = weight[:, :, None, None] if weight.ndim == 2 else weight
        super().__init__(len(weight), weight.shape[-1], sides, m)
        self.weight = nn.Parameter(weight)

    @override
    def kernel(self) -> Kernel:
        return self.weight

    @override
    def magnitude(self) -> Kernel:
        return self.weight.abs() + self.identity(1.0, self.side)

    @override
    def modulus(self) -> float:
        claimed = super().modulus()
        weight = self.weight.detach().double()
        values = torch.linalg.eigvalsh(
            symbol(self.identity(1.0, self.side) - (weight + transposed(weight)) / 2, self.sides)
        )
        least, rounding = float(values.min()), _ROUNDING * float(1 + values.abs().max())
        if least + rounding < claimed:
            worth = "is not strongly monotone" if least <= 0 else f"is strongly monotone by {least:.4g} alone"
            raise InputError(f"I − W {worth}, and m = {claimed:g} was claimed; no certificate follows from it.")
        return min(claimed, least - rounding)


def largest_step(kernel: Kernel) -> Float[Tensor, ""]:
    """1 / (1 − min_i W_ii), or 1 where no W_ii is negative: up to there (1 − α) I + α W has no negative diagonal."""
    middle = kernel.shape[-1] // 2
    return 1 / (1 - kernel[:, :, middle, middle].diagonal().min().clamp(max=0))
