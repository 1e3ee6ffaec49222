"""§6.1: exact training with few solver steps under ever stronger Jacobian penalties, ‖∂f/∂z‖_F² at z*."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from robustdeq.deq.gradients import Gradient, ThroughSolver, own_gradient
from robustdeq.study.configurations import EXACT_8_7
from robustdeq.study.experiment import Experiment
from robustdeq.study.panel import Drawing, Panels, accuracies, averages
from robustdeq.study.paper.fig2b import residuals
from robustdeq.study.study import Study, Trained
from robustdeq.training.regularizers import JacobianRegularization, Regularization

PENALTIES = {
    f"weight {weight:g}": Regularization(JacobianRegularization(weight, frequency=0.2, until=1.0))
    for weight in (0.4, 2.0, 10.0)
}
"""On every fifth step of the whole training."""


def penalised(study: Study, seed: int = 0) -> dict[str, Trained]:
    """The models trained with each penalty."""
    plan = study.scale.plan(EXACT_8_7, study.size, study.budget, seed)
    return {
        name: study.planned(
            replace(plan, recipe=replace(plan.recipe, regularization=penalty)),
            EXACT_8_7,
            " ".join([study.size, EXACT_8_7.name, name, *[f"seed {seed}"] * (seed > 0)]),
        )
        for name, penalty in PENALTIES.items()
    }


def final_residuals(study: Study, seed: int) -> Float[np.ndarray, "penalties samples"]:
    """The relative residual of the final state of each of them, on every clean image."""
    models = penalised(study, seed).items()
    return np.stack([residuals(study, trained, f"claims, {name}, seed {seed}")[-1] for name, trained in models])


def _measure(study: Study) -> Panels:
    models = {"as at this scale": study.trained(EXACT_8_7), **penalised(study)}
    titles = {name: f"{JACOBIAN_SWEEP.name}, {name}" for name in models}
    found = [residuals(study, trained, titles[name]) for name, trained in models.items()]
    yield averages(
        "relative residual of the states, clean images",
        "‖f(z)−z‖ / ‖f(z)‖",
        models,
        (f"z_{n}" for n in range(1, len(found[0]) + 1)),
        np.stack(found),
        row_axis="Jacobian penalty",
        column_axis="State",
        drawing=Drawing.CURVES,
        logarithmic=True,
    )
    outcomes = []
    for name, trained in models.items():
        gradients: dict[str, Gradient] = {
            "Exact": own_gradient(trained.deq),
            "Unrolling": study.estimators.final,
            "Through the solver": ThroughSolver(),
        }
        final = {"final": trained.defenses["final"]}
        result = study.climbed(f"{titles[name]}, attacks", trained.deq, final, gradients)
        outcomes.append(np.concatenate([result.clean, result.per_sample[0]]))
    yield accuracies(
        f"accuracy of the final state, PGD-{study.attack.steps} on each gradient",
        models,
        ("Clean", "Exact", "Unrolling", "Through the solver"),
        np.stack(outcomes),
        row_axis="Jacobian penalty",
    )


JACOBIAN_SWEEP = Experiment(
    "jacobian-sweep",
    "§6.1",
    "Exact training with few solver steps under Jacobian penalties",
    (EXACT_8_7,),
    _measure,
    "With varied weights of the Jacobian penalty the solver of the exact-trained DEQ (8/7) still diverged.",
    legend="A weight is the factor of the penalty, added on every fifth step of the whole training.",
    trains=True,
)
