"""L∞ radii by interval bounds, found as a second fixed point and then verified.

Let every pixel move by up to ε. The box of injections is U x + b ± |U| ε, and one step z ← max(M z + α u, 0) with
M = (1 − α) I + α W takes a box of states, centre c and radius r, into the box M c ± |M| r + α u, cut off at 0. A box
that this maps into itself holds a fixed point for every image of the ball (Brouwer), which is the equilibrium, since
that is unique. The solver proposes such a box; what is certified is that the step does map it into itself, in float64
with its rounding added.

Wei and Kolter, "Certified robustness for deep equilibrium models via interval bound propagation" (ICLR 2022); Jafarpour
et al., "Robustness certificates for implicit neural networks: a mixed monotone contractive approach" (L4DC 2022), whose
layer (`Contracting`) has such a box for every ε.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import override

from robustdeq.base.errors import check_counts, require
from robustdeq.base.norms import Linf
from robustdeq.base.progress import Report
from robustdeq.base.shapes import Mask, PerSample, Pixels, per_sample
from robustdeq.certificates.affine import linear_part, matrix
from robustdeq.certificates.certificate import Certificate, Radii
from robustdeq.certificates.equilibrium import ROUNDING, Equilibrium, differences, equilibrium, paired
from robustdeq.deq.monotone.kernels import Grid, apply
from robustdeq.deq.monotone.operators import largest_step
from robustdeq.solvers import Anderson

_TOLERANCE = 1e-7
_WIDENED = tuple(10.0**-power for power in range(8, 0, -1))
"""By how much a box is widened before it is tried, relative to its radius and to the largest state."""


@dataclass(frozen=True)
class Box:
    """The states between `center` − `radius` and `center` + `radius`."""

    center: Grid
    radius: Grid

    def widened(self, share: float) -> Box:
        """A larger box: by a share of its radius and of the greatest entry of each sample."""
        largest = per_sample((self.center.abs() + self.radius).flatten(1).amax(dim=1), self.center)
        return Box(self.center, self.radius * (1 + share) + share * largest)

    @classmethod
    def between(cls, low: Grid, high: Grid) -> Box:
        """The box of all states between two."""
        return cls((low + high) / 2, (high - low) / 2 * (1 + ROUNDING) + ROUNDING * high.abs())

    def replaced(self, where: Mask, other: Box) -> Box:
        """The box of another for some of the samples."""
        chosen = per_sample(where, self.center)
        return Box(torch.where(chosen, other.center, self.center), torch.where(chosen, other.radius, self.radius))

    def holds(self, other: Box) -> Mask:
        """Whether all of another box lies within it."""
        return ((self.radius - other.radius) >= (self.center - other.center).abs()).flatten(1).all(dim=1)


class Step:
    """One step of a monotone DEQ on boxes of states, for all images within ε of some.

    Args:
        known: the model.
        x: the images.
        eps: ε for each of them.
    """

    def __init__(self, known: Equilibrium, x: Pixels, eps: PerSample) -> None:
        reach = per_sample(eps, x)
        low, high = (x - reach).clamp(0, 1), (x + reach).clamp(0, 1)
        center, radius = (low + high) / 2, (high - low) / 2 * (1 + ROUNDING)
        alpha, identity = largest_step(known.kernel), known.deq.operator.identity(1.0, known.kernel.shape[-1])
        self._positive = known.deq.cell.positive
        self._kernel = identity.lerp(known.kernel, alpha)
        self._magnitude = known.magnitude + identity
        self._injected = alpha * known.deq.injection(center)
        self._spread = alpha * linear_part(known.injected, radius)
        self._scale = known.injected(center.abs() + radius)

    def __call__(self, box: Box) -> Box:
        """A box that holds the step of every state in a box, for every image within ε."""
        rounding = ROUNDING * (apply(self._magnitude, box.center.abs() + box.radius) + self._scale)
        center = apply(self._kernel, box.center) + self._injected
        radius = apply(self._kernel.abs(), box.radius) + self._spread + rounding
        return Box.between(*(self._positive(end) for end in (center - radius, center + radius)))


@dataclass(frozen=True)
class IntervalBounds(Certificate):
    """L∞ radii of a monotone DEQ by interval bounds.

    Args:
        largest: the largest ε that is tried, in the units of pixels.
        halvings: how often the interval in which each radius lies is halved; the radius is its lower end.
        tolerance: the greatest residual ‖z − f(z)‖, in the norm of the operator, of a computed state that the radii of
            computed states cover; by default ten times the median over the images.
        max_steps: solver steps to find a box, by Anderson acceleration.

    Raises:
        InputError: a setting is out of its range.
    """

    largest: float = 0.5
    halvings: int = 9
    tolerance: float | None = None
    max_steps: int = 40

    title = "interval bounds"
    covers = "the exact equilibrium of the weights"
    norm = Linf()
    unbounded = False

    def __post_init__(self) -> None:
        check_counts(halvings=self.halvings, max_steps=self.max_steps)
        require(self.largest > 0, f"largest is {self.largest}; give a positive radius.")

    @override
    def radii(self, model: nn.Module, x: Sequence[Pixels], report: Report) -> list[Radii]:
        known = equilibrium(model)
        batches = [*map(known.solved, x)]
        tolerance = known.tolerance(batches) if self.tolerance is None else self.tolerance
        found = []
        for i, (image, z, computed) in enumerate(batches):
            report(i / len(batches), "bounding")
            found.append(self._bisected(known, image, z, computed, tolerance))
        return found

    def _bisected(self, known: Equilibrium, x: Pixels, z: Grid, computed: Tensor, tolerance: float) -> Radii:
        """The greatest radii that were tried and certified, as the interval in which they lie is halved."""
        winner, low = computed.argmax(dim=1), x.new_zeros(len(x))
        exact, covered, high = low.clone(), low.clone(), torch.full_like(low, self.largest)
        rows = matrix(known.deq.classifier, z[:1])
        rows, bias = rows[winner][:, None] - rows, known.deq.classifier(torch.zeros_like(z[:1]))
        dual = known.deq.operator.dual.size(rows.flatten(0, 1)).view(rows.shape[:2])
        slack = dual * known.tolerated(tolerance)
        unit, eps = known.rounding_unit(), high
        for _ in range(self.halvings + 1):
            box, verified = self.box(Step(known, x, eps), z)
            center, radius = box.center.flatten(1), box.radius.flatten(1)
            margins = (rows @ center[..., None])[..., 0] + differences(bias.expand(len(x), -1), winner)
            reach = known.tolerated(tolerance)
            scale = paired(known.classified(box.center.abs() + box.radius + reach), winner)
            margins = margins - (rows.abs() @ radius[..., None])[..., 0] - ROUNDING * scale
            kept = verified & (margins > 0).all(dim=1)
            safe = verified & (margins - slack - unit * scale > 0).all(dim=1)
            exact, covered = torch.where(kept, eps, exact), torch.where(safe & (eps > covered), eps, covered)
            low, high = torch.where(kept, eps, low), torch.where(kept, high, eps)
            eps = (low + high) / 2
        return Radii(winner, exact, covered, tolerance)

    def box(self, step: Step, z: Grid) -> tuple[Box, Mask]:
        """A box that the step maps into itself, and for which of the samples it does.

        Args:
            step: on boxes of states.
            z: a state to begin at.
        """
        packed = torch.stack([z, torch.zeros_like(z)], dim=1)
        solver = Anderson(max_steps=self.max_steps, tol=_TOLERANCE)
        solve = solver.iterate(lambda boxes: _packed(step(Box(*boxes.unbind(1)))), packed, hold_best=True)
        for _ in solve:
            pass
        assert solve.best_state is not None
        center, radius = solve.best_state.view(packed.shape).unbind(1)
        best, held = Box(center, radius.clamp_min(0)), torch.zeros(len(z), dtype=torch.bool, device=z.device)
        for share in _WIDENED:
            tried = Box(center, radius.clamp_min(0)).widened(share)
            inside = tried.holds(step(tried)) & ~held
            best, held = best.replaced(inside, tried), held | inside
        return best, held


def _packed(box: Box) -> Tensor:
    """A box as one tensor."""
    return torch.stack([box.center, box.radius], dim=1)
