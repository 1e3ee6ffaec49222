"""Worst-case PGD: a sample is left alone as soon as an iterate fools the judge.

What counts is whether any iterate of any run succeeds, so nothing that comes after the first success matters: such
samples leave the batch, and every further step costs what still stands.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from typing_extensions import override

from robustdeq.attacks.base import Cost
from robustdeq.attacks.judged import Judged
from robustdeq.attacks.losses import checked, correct
from robustdeq.attacks.pgd import PGD
from robustdeq.base.shapes import Labels, Pixels
from robustdeq.deq.model import total_loss


@dataclass(frozen=True)
class StoppingPGD(PGD):
    """PGD that keeps, for each sample, the first iterate that fools the judge, or else the last; settings as for `PGD`.

    Iterates are judged by the logits that are differentiated (`Judged`): through the solver of the defense that judges,
    that costs no further solve.
    """

    @classmethod
    def like(cls, attack: PGD, steps: int, restarts: int) -> StoppingPGD:
        """With the settings of another PGD, but for its steps and restarts."""
        return cls(**vars(replace(attack, steps=steps, restarts=restarts)))

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
    def climb(
        self, surrogate: nn.Module, judge: nn.Module, x: Pixels, found: Pixels, y: Labels, standing: Tensor, last: bool
    ) -> Tensor:
        """As for `PGD`, each until it succeeds, and the judge is asked after every run."""
        judged = Judged(surrogate, judge)
        for _ in range(self.steps):
            leaf = found[standing].requires_grad_()
            with torch.enable_grad():
                logits = judged.answers(leaf)
                finite = logits.isfinite().all(dim=1, keepdim=True)
                loss = total_loss(checked(self.loss, y[standing]), torch.where(finite, logits, 0))
            (gradient,) = torch.autograd.grad(loss, leaf)
            going = correct(logits, y[standing]) != self.targeted
            standing = standing[going]
            if len(standing) == 0:
                return standing
            found[standing] = self.step(leaf.detach()[going], gradient[going], x[standing])
        return standing[~self.fooled(judged.target, found[standing], y[standing])]
