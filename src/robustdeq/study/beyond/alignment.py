"""Solver-aligned adversarial training against the paper's: what the ready-made attack sees, and what is there.

Aligned training makes adversaries and parameter gradients through the solver, so that forward and backward pass agree.
Each seed is a training of its own, on the same images and for the same number of steps.
"""

from __future__ import annotations

import numpy as np
import torch

from robustdeq.deq.defenses import FinalState, state_logits
from robustdeq.deq.gradients import ThroughSolver
from robustdeq.study.configurations import ALIGNED, UNROLLED
from robustdeq.study.experiment import BEYOND, Experiment
from robustdeq.study.panel import Panels, accuracies, averages
from robustdeq.study.study import Study

_COMPARED = (UNROLLED, ALIGNED)


def _measure(study: Study) -> Panels:
    x, _ = study.tensors()
    outcomes, residuals = {}, []
    for seed in range(study.seeds):
        for configuration in _COMPARED:
            deq = study.trained(configuration, seed=seed).deq
            gradients = {"ready-made": study.estimators.final, "through the solver": ThroughSolver(FinalState())}
            title = f"{ALIGNMENT.name}, {configuration.name}, seed {seed}"
            result = study.climbed(title, deq, {"final": FinalState()}, gradients)
            outcomes[f"{configuration.title}, seed {seed}"] = [result.clean[0], *result.per_sample[0]]
            last = [state_logits(deq, images)[1][-1] for images in x.split(study.batch_size)]
            residuals.append([torch.cat(last).double().cpu().numpy()])
    found, columns = np.array([*outcomes.values()]), ("Clean", "Ready-made", "Through the solver")
    yield accuracies(
        f"accuracy of the final state, PGD-{study.attack.steps}", outcomes, columns, found, row_axis="Training"
    )
    gains, seeds = 100.0 * (found[1::2].astype(float) - found[::2]), (f"seed {seed}" for seed in range(study.seeds))
    yield averages("aligned minus unrolled, on the same images", "points", seeds, columns, gains)
    yield averages(
        "relative residual of the final state, clean images",
        "‖f(z)−z‖ / ‖f(z)‖",
        outcomes,
        ("Residual",),
        np.array(residuals),
        row_axis="Training",
        logarithmic=True,
    )


ALIGNMENT = Experiment(
    "alignment",
    BEYOND,
    "Solver-aligned adversarial training against the unrolled gradient",
    _COMPARED,
    _measure,
)
