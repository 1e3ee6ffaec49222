"""The paper's grid, made once for all defenses, over every column and defense by itself, as the published code does.

There every attack runs the whole solve for every candidate, whatever state it reads, and backward passes differentiate
with respect to the weights too; an ensemble is a solve for each of its members; and the adversaries are made again for
each defense. Both sides run on our own solver and cell, so that the ratio is that of the organisation alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from robustdeq.attacks import PGD
from robustdeq.base.shapes import Logits, Pixels
from robustdeq.deq.defenses import Defense, EarlyState, EnsembleState, FinalState, defended_logits
from robustdeq.deq.gradients import Ensemble, Gradient, SimultaneousAdjoint, Surrogate, UnrolledIntermediate
from robustdeq.deq.model import DEQ, Loss, total_loss
from robustdeq.evaluation import Estimators
from robustdeq.study.bench.benchmark import Bench, Claim, Measured, Setting
from robustdeq.study.counting import counted
from robustdeq.study.panel import Drawing, Panel
from robustdeq.study.stopwatch import Side, interleaved

_STEPS = PGD().steps
_DEFENSES: tuple[Defense, ...] = (FinalState(), EarlyState(1), EnsembleState())


@dataclass(frozen=True)
class Separate(Gradient):
    """A gradient that runs the whole solve for every state it reads, and again for the next one."""

    gradient: Gradient

    def members(self, deq: DEQ) -> Iterator[Gradient]:
        """The gradients whose sum it is."""
        gradient = self.gradient
        family = gradient.family if isinstance(gradient, Ensemble) else None
        if isinstance(family, SimultaneousAdjoint | UnrolledIntermediate):
            yield from (replace(family, state=n) for n in range(1, deq.last_state + 1))
        else:
            yield gradient

    @override
    def evaluations(self, deq: DEQ) -> int:
        return sum(member.evaluations(deq) for member in self.members(deq))

    @override
    def logits(self, deq: DEQ, x: Pixels) -> Logits:
        return self.gradient.logits(deq, x)

    @override
    def input_gradient(self, deq: DEQ, x: Pixels, loss: Loss) -> Pixels:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            return torch.stack([self._alone(member, deq, leaf, loss) for member in self.members(deq)]).sum(dim=0)

    @staticmethod
    def _alone(gradient: Gradient, deq: DEQ, x: Tensor, loss: Loss) -> Tensor:
        if isinstance(gradient, SimultaneousAdjoint):
            solution = gradient.recorded_solution(deq, x, None)
            n = deq.last_state if gradient.state is None else gradient.state
            ((_, on_injection),) = gradient.sweep(deq, solution, loss, range(n, n + 1))
            return torch.autograd.grad(solution.u, x, on_injection)[0]
        whole = isinstance(gradient, UnrolledIntermediate)
        logits = deq.head(gradient.read(deq.solution(x))) if whole else gradient.logits(deq, x)
        weights = [parameter for parameter in deq.parameters() if parameter.requires_grad]
        return torch.autograd.grad(total_loss(loss, logits), (x, *weights), allow_unused=True)[0]


@dataclass(frozen=True)
class Way:
    """A way to make a column of the grid under PGD, all of whose steps cost the same.

    Args:
        climb: what is climbed for a candidate.
        judges: the defenses that judge the same adversaries; each further group has them made again.
    """

    climb: Callable[[Gradient], Gradient]
    judges: tuple[tuple[Defense, ...], ...]

    def step(self, deq: DEQ, candidates: tuple[Gradient, ...], x: Tensor, y: Tensor) -> Side:
        """One step of PGD of all candidates, once; it is made `len(judges)` times."""
        surrogates = [Surrogate(deq, self.climb(gradient)) for gradient in candidates]
        return lambda: [PGD(steps=1)(surrogate, x, y) for surrogate in surrogates]

    def judge(self, deq: DEQ, x: Tensor) -> Side:
        """The defenses' judgement of the adversaries of one candidate."""
        return lambda: [defended_logits(deq, x, defenses) for defenses in self.judges]


WAYS = {
    "together": Way(lambda gradient: gradient, (_DEFENSES,)),
    "separately": Way(Separate, tuple((defense,) for defense in _DEFENSES)),
}


def _measure(setting: Setting) -> Measured:
    deq, images = setting.model().eval(), 2 * setting.batch
    x, y = setting.images(deq, images)
    columns = {column.label: column.gradients for column in Estimators().candidates(deq.last_state)}
    counts: dict[str, float] = {}

    def counting(key: str, side: Side) -> Side:
        def run() -> None:
            with counted(deq) as found:
                side()
            counts[key] = found.total / images

        return run

    sides = {f"judgement, {name}": way.judge(deq, x) for name, way in WAYS.items()}
    sides |= {
        f"{column}, {name}": way.step(deq, columns[column], x, y) for column in columns for name, way in WAYS.items()
    }
    counting_sides = {key: counting(key, side) for key, side in sides.items()}
    times = interleaved(counting_sides, 1, setting.report, warm_up=False)

    def whole(parts: Mapping[str, float]) -> Float[np.ndarray, "columns ways"]:
        """All steps of PGD and the judgement of every candidate."""
        costs = [
            _STEPS * len(way.judges) * parts[f"{column}, {name}"] + len(candidates) * parts[f"judgement, {name}"]
            for column, candidates in columns.items()
            for name, way in WAYS.items()
        ]
        return np.reshape(costs, (len(columns), len(WAYS)))

    evaluations, seconds = whole(counts), whole({key: timing.median for key, timing in times.items()})
    title = f"the paper's grid under PGD-{_STEPS}, MDEQ-{setting.size}, {images} images"
    names = tuple(name.capitalize() for name in columns)
    panels = tuple(
        Panel(f"{title}: {what}", unit, names, tuple(WAYS), values, row_axis="Column", drawing=Drawing.BARS)
        for what, unit, values in (
            ("evaluations of f and products with its Jacobian, per image", "f", evaluations),
            ("time, from one step and one judgement of every candidate", "s", seconds),
        )
    )
    subject = f"{title}: every column and defense separately over all together"
    (fewer, many), (short, long) = evaluations.sum(axis=0).tolist(), seconds.sum(axis=0).tolist()
    return Measured(
        panels,
        (
            Claim.of_counts(f"{subject}, evaluations of f", many, fewer, 2.5, at_least=True),
            Claim.of_counts(f"{subject}, time", long, short, 5.0, at_least=True),
        ),
    )


GRID = Bench("grid", "The paper's grid in one go over column by column", _measure)
