"""Worst-case PGD that leaves broken samples alone, over the same attack that goes on with all of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import override

from robustdeq.attacks import PGD, Judged, StoppingPGD
from robustdeq.attacks.ascent import Ascent
from robustdeq.attacks.losses import checked, correct
from robustdeq.base.errors import InputError
from robustdeq.base.progress import Report
from robustdeq.deq.model import total_loss
from robustdeq.evaluation import Strict
from robustdeq.study.bench.benchmark import Bench, Claim, Measured, Setting, times_panel
from robustdeq.study.bench.victim import victim
from robustdeq.study.stopwatch import interleaved


@dataclass(frozen=True)
class UnrelentingPGD(PGD):
    """The same adversaries as those of `StoppingPGD`: every run on every sample, and the first success kept."""

    @override
    def search(self, surrogate: nn.Module, judge: nn.Module, x: Tensor, y: Tensor, report: Report) -> Tensor:
        judged, loss = Judged(surrogate, judge), checked(self.loss, y)
        ascent = Ascent.begin(surrogate, judge, x, y, self.seed)
        found, standing = x.clone(), torch.ones_like(y, dtype=torch.bool)

        def keep(iterate: Tensor, logits: Tensor) -> None:
            found[standing] = iterate[standing]
            standing.logical_and_(correct(logits, y))

        for _ in range(self.restarts):
            ascent.begin_at(self.start)
            iterate = ascent.found.clone()
            for _ in range(self.steps):
                leaf = iterate.detach().requires_grad_()
                with torch.enable_grad():
                    logits = judged(leaf)
                    (gradient,) = torch.autograd.grad(total_loss(loss, logits), leaf)
                keep(leaf.detach(), logits.detach())
                iterate = self.step(leaf.detach(), gradient, x)
            with torch.no_grad():
                keep(iterate, judged(iterate))
        return found


def _measure(setting: Setting) -> Measured:
    images = 2 * setting.batch
    with victim(setting, images, StoppingPGD(steps=10, restarts=Strict().restarts)) as v:
        stopping = v.attack
        unrelenting = UnrelentingPGD(**vars(stopping))
        sides = {
            "broken samples frozen": lambda: stopping(v.surrogate, v.x, v.y, v.target),
            "all samples to the end": lambda: unrelenting(v.surrogate, v.x, v.y, v.target),
        }
        outcomes = [correct(v.target(side()), v.y) for side in sides.values()]
        if not torch.equal(*outcomes):
            raise InputError("freezing changed an outcome, which is a defect of this program; please report it.")
        left = outcomes[0].float().mean().item()
        times = interleaved(sides, max(setting.repetitions // 2, 1), setting.report, warm_up=False)
    attacked = f"worst case of PGD-{stopping.steps} in {stopping.restarts} runs, MDEQ-{setting.size}"
    title = f"{attacked}, {images} images of which {left:.0%} withstand it"
    frozen, all_samples = times.values()
    claim = Claim.of_times(f"{title}: all samples to the end over broken ones frozen", all_samples, frozen, 1.5, True)
    return Measured((times_panel(title, times),), (claim,))


FREEZING = Bench("freezing", "Early freezing of broken samples", _measure)
