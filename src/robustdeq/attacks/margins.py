"""PGD on differences of logits, which do not vanish where the cross-entropy saturates: the margin and targeted DLR."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from typing_extensions import override

from robustdeq.attacks.base import Cost
from robustdeq.attacks.losses import checked, margin, targeted_dlr, wrong_classes
from robustdeq.attacks.pgd import PGD
from robustdeq.base.errors import InputError, require
from robustdeq.base.progress import Report
from robustdeq.base.shapes import Labels, Logits, PerSample, Pixels


@dataclass(frozen=True)
class MarginPGD(PGD):
    """PGD on the margin (`losses.margin`); settings as for `PGD`."""

    @property
    @override
    def label(self) -> str:
        return f"PGD on the margin, {self.effort}"

    @override
    def loss(self, logits: Logits, y: Labels) -> PerSample:
        """The margin of each sample, in logits."""
        return margin(logits, y)


@dataclass(frozen=True)
class TargetedDLRPGD(PGD):
    """PGD on the targeted difference of logits ratio (`losses.targeted_dlr`), a class a run; settings as for `PGD`.

    As in targeted APGD (Croce and Hein, ICML 2020), the first run makes for the wrong class that the judge finds
    likeliest on the image itself, the next for the second, each on the samples that none before has fooled.

    Raises:
        InputError: `targeted` is true, or the model it meets has fewer than 4 classes, or not a wrong one for each run.
    """

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        require(not self.targeted, "targeted is true; TargetedDLRPGD chooses its classes itself: leave it false.")

    @property
    @override
    def cost(self) -> Cost:
        """As for `PGD`, with one forward pass for the classes."""
        return super().cost + Cost(0, 1)

    @property
    @override
    def label(self) -> str:
        return f"PGD on the targeted DLR, {self.effort}"

    @override
    def search(self, surrogate: nn.Module, judge: nn.Module, x: Pixels, y: Labels, report: Report) -> Pixels:
        """Run, a class each."""
        with torch.no_grad():
            targets = checked(wrong_classes, y)(judge(x))
        most = targets.shape[1]
        if most < max(3, self.restarts):
            raise InputError(
                f"the model has {most + 1} classes, and the targeted DLR needs 4, and a wrong one for each of "
                f"{self.restarts} runs; climb another loss, or lower restarts."
            )
        generator = torch.Generator(device=x.device).manual_seed(self.seed)
        adversaries, standing = x.clone(), torch.arange(len(x), device=x.device)
        for run in range(self.restarts):
            report(run / self.restarts, f"class {run + 1} of {self.restarts}")
            start = self.start(x, generator)[standing]
            loss = partial(targeted_dlr, y=y[standing], target=targets[standing, run])
            adversaries[standing] = self.run(surrogate, x[standing], start, loss)
            if run + 1 < self.restarts:
                standing = standing[~self.fooled(judge, adversaries[standing], y[standing])]
            if len(standing) == 0:
                break
        return adversaries
