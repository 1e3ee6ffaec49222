"""L2 radii from how far the logits of a monotone DEQ can move with its input.

Let S be the symmetric part of I − W where states live, S ⪰ m I, U the matrix of the injection, c the difference of two
rows of the classifier. Two equilibria differ by Δ with ⟨Δ, S Δ⟩ ≤ ⟨Δ, U δ⟩ for a perturbation δ, because ReLU is the
projection onto a cone. So S^{1/2} Δ lies in the ball with 0 and S^{-1/2} U δ at the ends of a diameter, and

    ⟨c, Δ⟩ ≤ ½ (‖Uᵀ S⁻¹ c‖ + ‖S^{-1/2} c‖ ‖S^{-1/2} U‖) ‖δ‖.

With S replaced by m I and the average by its larger part this is ‖c‖ ‖U‖ ‖δ‖ / m, the bound of Pabbaraju, Winston and
Kolter, "Estimating Lipschitz constants of monotone deep equilibrium models" (ICLR 2021), Theorem 1, which is larger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from robustdeq.base.errors import InputError, require
from robustdeq.base.norms import L2
from robustdeq.base.progress import Report
from robustdeq.base.shapes import PerSample, Pixels
from robustdeq.certificates.affine import matrix
from robustdeq.certificates.certificate import Certificate, Radii
from robustdeq.certificates.equilibrium import ROUNDING, Equilibrium, differences, equilibrium, paired
from robustdeq.deq.monotone.kernels import Grid, apply

_LARGEST = 8192
_SPECTRAL = 1e-10
"""What rounding may do to an eigenvalue in float64, relative to the largest; to a solve, times the condition number."""
_MOST = 0.01
"""The largest share of a slope that may be due to rounding."""


@dataclass(frozen=True, eq=False)
class Slopes:
    """How fast logits move with the input.

    Attributes:
        state: a bound on ‖Δ‖ / ‖δ‖.
        logits: bounds on |⟨c, Δ⟩| / ‖δ‖, for every pair of classes.
        heads: ‖c‖ for every pair of classes.
        rows: the sum of the norms of the two rows, of absolute weights, for every pair of classes.
    """

    state: float
    logits: Float[Tensor, "classes classes"]
    heads: Float[Tensor, "classes classes"]
    rows: Float[Tensor, "classes classes"]


def slopes(known: Equilibrium, x: Pixels, z: Grid) -> Slopes:
    """The slopes of a monotone DEQ in the Euclidean norm.

    Args:
        known: the model.
        x: an image, for its shape.
        z: a state, for its shape.
    """
    deq = known.deq
    if deq.operator.norm != L2():
        raise InputError("W contracts in the largest entry, not in the Euclidean norm; certify it by interval bounds.")
    inside = deq.cell.positive(torch.ones_like(z[0])[None]).flatten().nonzero()[:, 0]
    if len(inside) > _LARGEST:
        raise InputError(f"the state has {len(inside)} entries, and bounds are computed for {_LARGEST} at most.")
    identity = torch.eye(z[0].numel(), dtype=z.dtype, device=z.device)[inside].view(-1, *z.shape[1:])
    weight = apply(known.kernel, identity).flatten(1)[:, inside]
    symmetric = torch.eye(len(inside), dtype=z.dtype, device=z.device) - (weight + weight.T) / 2
    size = 1 + float(known.magnitude.sum(dim=(1, 2, 3)).max())
    symmetric -= _SPECTRAL * size * torch.eye(len(inside), dtype=z.dtype, device=z.device)
    root, failed = torch.linalg.cholesky_ex(symmetric)
    relative = _SPECTRAL * (1 + size / known.modulus)
    require(
        not failed and relative < _MOST,
        f"m = {known.modulus:g} is lost in rounding, so that no certificate follows; train with more.",
    )
    injected = torch.linalg.solve_triangular(root, matrix(deq.injection, x[:1])[inside], upper=False)
    classified = torch.linalg.solve_triangular(root, matrix(deq.classifier, z[:1])[:, inside].T, upper=False)
    largest = torch.linalg.eigvalsh(injected.T @ injected).max().sqrt()
    along, across = _pairs(injected.T @ classified), _pairs(classified)
    bound = (along + across * largest) / 2 * (1 + relative)
    rows = matrix(known.classified, z[:1]).norm(dim=1)
    heads = _pairs(matrix(deq.classifier, z[:1]).T)
    return Slopes(float(largest / known.modulus**0.5) * (1 + relative), bound, heads, rows[:, None] + rows)


def _pairs(columns: Float[Tensor, "dim classes"]) -> Float[Tensor, "classes classes"]:
    """The norms of the differences of columns."""
    return torch.cdist(columns.T, columns.T, compute_mode="donot_use_mm_for_euclid_dist")


@dataclass(frozen=True)
class Lipschitz(Certificate):
    """L2 radii of a monotone DEQ by its Lipschitz constants.

    Args:
        tolerance: the greatest residual ‖z − f(z)‖ of a computed state that the radii of computed states cover; by
            default ten times the median over the images.
    """

    tolerance: float | None = None

    title = "Lipschitz bound"
    covers = "the exact equilibrium of the weights"
    norm = L2()

    @override
    def radii(self, model: nn.Module, x: Sequence[Pixels], report: Report) -> list[Radii]:
        known = equilibrium(model)
        report(0.0, "bounding")
        solved = [*map(known.solved, x)]
        bound = slopes(known, *solved[0][:2])
        tolerance = known.tolerance(solved) if self.tolerance is None else self.tolerance
        return [self._radii(known, bound, tolerance, *found) for found in solved]

    def _radii(
        self, known: Equilibrium, bound: Slopes, tolerance: float, x: Pixels, z: Grid, computed: Tensor
    ) -> Radii:
        winner = computed.argmax(dim=1)
        logits, scale = known.deq.classifier(z), known.classified(z.abs())
        heads, slope = bound.heads[winner], bound.logits[winner]
        margins = differences(logits, winner) - ROUNDING * paired(scale, winner)
        exact = margins - heads * (error := known.error(x, z)[:, None])
        off, unit = known.tolerated(tolerance), known.rounding_unit()
        rounded = unit * (paired(scale, winner) + bound.rows[winner] * (error + off))
        return Radii(
            winner,
            _least(exact / slope),
            _least((exact - heads * off - rounded) / (slope + unit * bound.rows[winner] * bound.state)),
            tolerance,
        )


def _least(radii: Float[Tensor, "batch classes"]) -> PerSample:
    """The least radius over the classes that an image could be moved to, and nothing below 0."""
    return radii.amin(dim=1).clamp_min(0) * (1 - ROUNDING)
