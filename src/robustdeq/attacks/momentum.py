"""PGD with momentum, whose steps halve where they stop helping: Auto-PGD (Croce and Hein, ICML 2020, Algorithm 1).

    y_{k+1} = Π(x_k + η_k d_k),   x_{k+1} = Π(x_k + α (y_{k+1} − x_k) + (1 − α) (x_k − x_{k−1})),   α = 3/4,

with d_k the direction of steepest ascent and Π the projection onto the ball. At checkpoints, ever closer to each other,
a sample halves η and goes on from its best point if too few steps since the last one raised its loss, or if nothing has
improved on its best since then though η stayed the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from robustdeq.attacks.ascent import Ascent, Bound
from robustdeq.attacks.judged import Judged
from robustdeq.attacks.losses import correct
from robustdeq.attacks.pgd import PGD
from robustdeq.attacks.stopping import StoppingPGD, differentiated
from robustdeq.base.errors import require
from robustdeq.base.shapes import Mask, PerSample, Pixels, per_sample

_FRESH = 0.75
"""α: how much of a step is new."""
_RISING = 0.75
"""The share of steps that have to raise the loss."""


@dataclass(frozen=True)
class MomentumPGD(StoppingPGD):
    """Auto-PGD, each sample up to its first success; settings as for `PGD`.

    It ascends: `targeted` stays false, and what is to be reached is a matter of the criterion (`MultiTargeted`).

    Args:
        step_size: η of the first steps; twice the radius, as published, is that of `like`.
        steps: of a run.

    Raises:
        InputError: a setting is out of its range, or `targeted` is true.
    """

    step_size: float = 16 / 255
    steps: int = 100

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        require(not self.targeted, "targeted is true, and MomentumPGD only ascends; leave it false.")

    @classmethod
    @override
    def like(cls, attack: PGD, steps: int, restarts: int) -> MomentumPGD:
        """With the threat model, starts and criterion of another PGD, and first steps of twice its radius."""
        own: dict[str, Any] = {"steps": steps, "restarts": restarts, "step_size": 2 * attack.eps or 1.0}
        return cls(**attack.settings_for(cls) | own)

    @property
    @override
    def label(self) -> str:
        return f"momentum PGD, {self.effort}"

    @override
    def climb(self, ascent: Ascent, loss: Bound, last: bool) -> None:
        """As for `StoppingPGD`, with momentum and steps that halve; where chance has a say, no run ends early."""
        ascent.begin_at(self.start)
        judged, checkpoints = Judged(ascent.surrogate, ascent.judge), set(self.checkpoints())
        point = previous = ascent.found[ascent.standing]
        course: _Course | None = None
        for step in range(self.steps):
            chosen = ascent.standing
            logits, losses, gradient = differentiated(judged, point, loss(chosen))
            going = correct(logits, ascent.y[chosen]) | ascent.by_chance
            ascent.keep(going)
            if not len(ascent.standing):
                return
            point, previous, losses, gradient = (part[going] for part in (point, previous, losses, gradient))
            course = course or _Course.begin(point, losses, gradient, self.step_size)
            course = course.of(going).seen(point, losses, gradient) if step else course
            if step in checkpoints:
                course, back = course.checked()
                point = torch.where(per_sample(back, point), course.best, point)
                gradient = torch.where(per_sample(back, gradient), course.best_gradient, gradient)
            moved = self._moved(point, previous, gradient, ascent.x[ascent.standing], course.length, step)
            previous, point = point, moved
            ascent.found[ascent.standing] = point
        ascent.spare(self.fooled)

    def checkpoints(self) -> Iterator[int]:
        """After how many steps progress is checked: 22 % of them, then ever sooner, down to 6 %."""
        gap, least, less = (max(int(share * self.steps), 1) for share in (0.22, 0.06, 0.03))
        step = gap
        while step <= self.steps:
            yield step
            gap = max(gap - less, least)
            step += gap

    def _moved(
        self, point: Pixels, previous: Pixels, gradient: Pixels, center: Pixels, length: PerSample, step: int
    ) -> Pixels:
        threat, fresh = self.threat, _FRESH if step else 1.0
        target = threat.project(point + per_sample(length, point) * threat.steepest(gradient, point), center)
        return threat.project(point + fresh * (target - point) + (1 - fresh) * (point - previous), center)


@dataclass(frozen=True, eq=False)
class _Course:
    """How the samples of a run have fared, up to their last checkpoint and since.

    Attributes:
        best: where the loss was highest.
        best_loss: there.
        best_gradient: there.
        length: η.
        last_loss: of the last step.
        rises: how many steps since the checkpoint raised the loss.
        checked_loss: the highest loss at the checkpoint.
        halved: whether η was halved there.
        count: how many steps there were since.
    """

    best: Pixels
    best_loss: PerSample
    best_gradient: Pixels
    length: PerSample
    last_loss: PerSample
    rises: PerSample
    checked_loss: PerSample
    halved: Mask
    count: int = 0

    @classmethod
    def begin(cls, point: Pixels, losses: PerSample, gradient: Pixels, length: float) -> _Course:
        """At the start of a run, where η counts as halved: it is as long as it ever will be."""
        rises, halved = torch.zeros_like(losses), torch.ones_like(losses, dtype=torch.bool)
        lengths = torch.full_like(losses, length, dtype=point.dtype)
        return cls(point, losses, gradient, lengths, losses, rises, losses, halved)

    def of(self, chosen: Mask) -> _Course:
        """The course of some of the samples."""
        return replace(self, **{name: part[chosen] for name, part in vars(self).items() if isinstance(part, Tensor)})

    def seen(self, point: Pixels, losses: PerSample, gradient: Pixels) -> _Course:
        """The course with one more step."""
        better = losses > self.best_loss
        return replace(
            self,
            best=torch.where(per_sample(better, point), point, self.best),
            best_loss=torch.where(better, losses, self.best_loss),
            best_gradient=torch.where(per_sample(better, gradient), gradient, self.best_gradient),
            last_loss=losses,
            rises=self.rises + (losses > self.last_loss),
            count=self.count + 1,
        )

    def checked(self) -> tuple[_Course, Mask]:
        """The course beyond a checkpoint, and which samples halved η there."""
        stuck = (self.rises <= _RISING * self.count) | (~self.halved & (self.checked_loss >= self.best_loss))
        course = replace(
            self,
            length=torch.where(stuck, self.length / 2, self.length),
            rises=torch.zeros_like(self.rises),
            checked_loss=self.best_loss,
            halved=stuck,
            count=0,
        )
        return course, stuck
