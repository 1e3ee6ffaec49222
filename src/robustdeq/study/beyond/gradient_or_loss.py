"""Gradient or loss: which of the two takes more images from a model, at equal numbers of evaluations of f.

PGD climbs three gradients, each under three losses, from the same random starts. Whatever a gradient costs, all attacks
may spend the same: a cheaper one takes more steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
from jaxtyping import Bool
from torch import nn
from typing_extensions import override

from robustdeq.attacks import PGD, Attack, MultiTargeted
from robustdeq.attacks.losses import margin
from robustdeq.deq.defenses import FinalState
from robustdeq.deq.gradients import Gradient, ThroughSolver
from robustdeq.evaluation import Protocol
from robustdeq.evaluation.column import Column, Row
from robustdeq.evaluation.protocol import Gradients, judged
from robustdeq.study.configurations import ALIGNED, EXACT_8_7, EXACT_18_20, UNROLLED
from robustdeq.study.experiment import BEYOND, Experiment
from robustdeq.study.grids import strongest_on, under, white_box
from robustdeq.study.panel import Matrix, Panel, Panels, accuracies, paired
from robustdeq.study.study import Study, Trained

LOSSES: dict[str, Callable[[PGD], Attack]] = {
    "cross-entropy": lambda pgd: pgd,
    "margin": lambda pgd: replace(pgd, criterion=margin),
    "targeted DLR": lambda pgd: MultiTargeted(replace(pgd, restarts=1), targets=pgd.restarts),
}
"""What climbs each loss in as many runs as a PGD."""
CLIMBED = ("ready-made", "paper's best", "through the solver")


@dataclass(frozen=True)
class Crossed(Protocol):
    """Attacks on gradients, a column for each pair, by label; the first row judges.

    Args:
        attacks: what climbs, and what is climbed.
    """

    name: ClassVar[str] = "crossed"

    attacks: Mapping[str, tuple[Attack, Gradient]] = field(default_factory=dict)

    @override
    def columns(self, model: nn.Module, rows: Sequence[Row], gradients: Gradients) -> list[Column]:
        crossed = self.attacks.items()
        return [Column(name, name, judged(attack, model, g, rows[:1])) for name, (attack, g) in crossed]


@dataclass(frozen=True)
class Found:
    """What came of a model, gradients × losses.

    Attributes:
        best: in words, what the paper's best climbs.
        outcomes: whether the final state classifies each image correctly.
        steps: of each run.
        evaluations: of f, per image at most.
    """

    best: str
    outcomes: Bool[np.ndarray, "gradients losses samples"]
    steps: Matrix
    evaluations: Matrix


def matched(pgd: PGD, kind: Callable[[PGD], Attack], gradient: int, forward: int, budget: float) -> PGD:
    """PGD with as many steps in each of its runs as a budget pays for where it climbs some loss, at least 1.

    Args:
        pgd: the attack.
        kind: what climbs that loss in its place.
        gradient: what one gradient costs, in evaluations of f.
        forward: what one forward pass costs, in evaluations of f.
        budget: per image, in evaluations of f.
    """
    left = budget - kind(replace(pgd, steps=1)).cost.price(gradient, forward)
    return replace(pgd, steps=1 + max(int(left // (pgd.restarts * gradient)), 0))


def attacked(study: Study, trained: Trained, name: str) -> Found:
    """A model under every gradient and loss, in as many runs as targeted APGD tries classes in the strict protocol.

    The budget is what the dearest pair costs when it takes the steps of the study's PGD in each run.
    """
    deq, final = trained.deq, FinalState()
    grid = white_box(study, trained, f"the paper's attacks on {name}")
    best = strongest_on(0, grid, study.estimators, deq.last_state)
    climbed = dict(zip(CLIMBED, (study.estimators.ready_made(deq), best, ThroughSolver(final)), strict=True))
    plain, kinds = replace(study.attack, restarts=study.strict.targets), LOSSES.values()
    costs = {gradient: (climbs.evaluations(deq), final.evaluations(deq)) for gradient, climbs in climbed.items()}
    budget = max(kind(plain).cost.price(*cost) for kind in kinds for cost in costs.values())
    attacks = [[matched(plain, kind, *costs[gradient], budget) for kind in kinds] for gradient in climbed]
    crossed = {
        f"{gradient}, {loss}": (LOSSES[loss](pgd), climbed[gradient])
        for gradient, row in zip(climbed, attacks, strict=True)
        for loss, pgd in zip(LOSSES, row, strict=True)
    }
    result = study.measure(f"attacking {name}", deq, Crossed(study.attack, crossed), {"final": final})
    return Found(
        best.label,
        under(result, crossed)[0].reshape(len(climbed), len(LOSSES), -1),
        np.array([[float(pgd.steps) for pgd in row] for row in attacks]),
        np.array([[crossed[f"{g}, {loss}"][0].cost.price(*costs[g]) for loss in LOSSES] for g in climbed], float),
    )


def _measure(study: Study) -> Panels:
    found = {
        configuration.title + f", seed {seed}" * (study.seeds > 1): attacked(
            study, study.trained(configuration, seed=seed), f"{configuration.name}" + f", seed {seed}" * (seed > 0)
        )
        for configuration in study.compared(GRADIENT_OR_LOSS.configurations)
        for seed in range(study.seeds)
    }
    outcomes = np.stack([model.outcomes for model in found.values()])
    by_loss = outcomes.swapaxes(1, 2)
    runs = f"PGD in {study.strict.targets} run{'s' if study.strict.targets > 1 else ''}"
    axes = ("Training, gradient", "Loss")
    yield accuracies(
        f"accuracy of the final state, {runs}",
        [f"{model}, {gradient}" for model in found for gradient in CLIMBED],
        LOSSES,
        np.concatenate(outcomes),
        row_axis=axes[0],
        column_axis=axes[1],
    )
    yield from paired(
        f"what {CLIMBED[-1]} takes beyond another gradient, at the same loss",
        [f"{model}, beyond {gradient}" for model in found for gradient in CLIMBED[:-1]],
        LOSSES,
        np.concatenate(outcomes[:, :-1]),
        np.repeat(outcomes[:, -1], len(CLIMBED) - 1, axis=0),
        row_axis=axes[0],
        column_axis=axes[1],
    )
    first, *others = LOSSES
    yield from paired(
        f"what another loss takes beyond the {first}, along the same gradient",
        [f"{model}, {loss}" for model in found for loss in others],
        CLIMBED,
        np.repeat(by_loss[:, 0], len(others), axis=0),
        np.concatenate(by_loss[:, 1:]),
        row_axis="Training, loss",
        column_axis="Gradient",
    )
    chosen = tuple(f"{name}, {g}" + f": {f.best}" * (g == CLIMBED[1]) for name, f in found.items() for g in CLIMBED)
    evaluations = np.concatenate([model.evaluations for model in found.values()])
    steps = np.concatenate([model.steps for model in found.values()])
    yield Panel(f"evaluations of f per image at most, {runs}", "f", chosen, tuple(LOSSES), evaluations, *axes)
    yield Panel(f"steps of each run, {runs}", "steps", chosen, tuple(LOSSES), steps, *axes)


GRADIENT_OR_LOSS = Experiment(
    "gradient-or-loss",
    BEYOND,
    "Gradient or loss: which of the two does the work, at equal cost",
    (UNROLLED, EXACT_8_7, EXACT_18_20, ALIGNED),
    _measure,
    legend="The paper's best is the candidate behind its six columns that hurts the final state most on these images. "
    "A cheaper gradient takes more steps, so that in each run the evaluations of f match within one step; the final "
    "state judges. The targeted DLR makes for one wrong class in each run, the likeliest first. Differences are of the "
    "same images: positive where the image falls to the one and not to the other more often than the reverse. The "
    "values of p are not corrected for their number.",
)
