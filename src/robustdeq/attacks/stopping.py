"""Worst-case PGD: a sample is left alone as soon as an iterate fools the judge.

What counts is whether any iterate of any run succeeds, so nothing that comes after the first success matters: such
samples leave the batch, and every further step costs what still stands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from typing_extensions import override

from robustdeq.attacks.ascent import Ascent, Bound
from robustdeq.attacks.base import Cost
from robustdeq.attacks.judged import Judged
from robustdeq.attacks.losses import correct
from robustdeq.attacks.pgd import PGD
from robustdeq.base.derivative import derivative
from robustdeq.base.shapes import Logits, PerSample, Pixels
from robustdeq.deq.model import Loss, losses_of


@dataclass(frozen=True)
class StoppingPGD(PGD):
    """PGD that keeps, for each sample, the first iterate that fools the judge, or else the last; settings as for `PGD`.

    Iterates are judged by the logits that are differentiated (`Judged`): through the solver of the defense that judges,
    that costs no further solve. Where chance has a say, no run ends early: further beyond the boundary, fewer draws are
    correct.
    """

    @classmethod
    def like(cls, attack: PGD, steps: int, restarts: int) -> StoppingPGD:
        """With the settings of another PGD, but for its steps and restarts."""
        own: dict[str, Any] = {"steps": steps, "restarts": restarts}
        return cls(**attack.settings_for(cls) | own)

    @property
    @override
    def cost(self) -> Cost:
        """As for `PGD`, with one forward pass for the end of each run."""
        return Cost(self.steps * self.restarts, self.restarts)

    @property
    @override
    def label(self) -> str:
        return f"PGD up to its first success, {self.effort}"

    @override
    def climb(self, ascent: Ascent, loss: Bound, last: bool) -> None:
        """As for `PGD`, each until it succeeds, and the judge is asked after every run."""
        if ascent.by_chance:
            super().climb(ascent, loss, last=False)
            return
        ascent.begin_at(self.start)
        judged = Judged(ascent.surrogate, ascent.judge)
        for _ in range(self.steps):
            chosen, leaf = ascent.standing, ascent.found[ascent.standing]
            logits, _, gradient = differentiated(judged, leaf, loss(chosen))
            going = correct(logits, ascent.y[chosen]) != self.targeted
            ascent.keep(going)
            if not len(ascent.standing):
                return
            ascent.found[ascent.standing] = self.step(leaf[going], gradient[going], ascent.x[ascent.standing])
        ascent.spare(self.fooled)


def differentiated(judged: Judged, x: Pixels, loss: Loss) -> tuple[Logits, PerSample, Pixels]:
    """The logits of the judge, the loss of each sample, and its gradient by the surrogate, from one reading.

    Args:
        judged: gradients from one model, judgement by another.
        x: where.
        loss: logits (B, K) → (B,); of logits that are not finite, those of zeros are taken.
    """
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = judged.answers(leaf)
        finite = logits.isfinite().all(dim=1, keepdim=True)
        losses = losses_of(loss, torch.where(finite, logits, 0))
        gradient = derivative(losses.sum(), leaf)
    return logits.detach(), losses.detach(), gradient
