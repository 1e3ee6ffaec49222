"""Appendix B: the gradient at the adjoint state u_n approaches the exact gradient as the solve goes on.

The solve is given more steps than in training, in double precision and without a tolerance, so that there is an
equilibrium to approach; z* and the exact gradient are taken at its end.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float

from robustdeq.attacks.losses import cross_entropy
from robustdeq.deq.gradients import Exact, SimultaneousAdjoint
from robustdeq.deq.modes import evaluating
from robustdeq.study.configurations import UNROLLED
from robustdeq.study.experiment import Experiment
from robustdeq.study.grids import INVERSES
from robustdeq.study.panel import Drawing, Panels, averages
from robustdeq.study.study import Study, Trained

_STEPS = 30
_STEP_SIZES = (1.0, 0.5, 0.25)


def distances(study: Study, trained: Trained, title: str) -> dict[str, Float[np.ndarray, "states samples"]]:
    """By step size and form of B_n, how far the gradient at every u_n is from the exact one, relative to its norm."""
    double = copy.deepcopy(trained.deq).double()
    deq = double.with_settings(solver=replace(double.solver, max_steps=_STEPS, tol=0.0))
    adjoints = {
        f"β = {size:g}, {name}": SimultaneousAdjoint(None, size, transpose)
        for name, transpose in INVERSES.items()
        for size in _STEP_SIZES
    }
    batches = []
    with evaluating(deq):
        for x, y in study.batches(title):
            images, loss = x.double(), partial(cross_entropy, y=y)
            exact = Exact(max_steps=2 * _STEPS, tol=1e-10).input_gradient(deq, images, loss).flatten(1)
            errors = [
                (adjoint.input_gradients(deq, images, loss)[:_STEPS].flatten(2) - exact).norm(dim=2) / exact.norm(dim=1)
                for adjoint in adjoints.values()
            ]
            batches.append(torch.stack(errors).cpu().numpy())
    return dict(zip(adjoints, np.concatenate(batches, axis=2), strict=True))


def _measure(study: Study) -> Panels:
    found = distances(study, study.trained(UNROLLED), APPENDIX_B.name)
    yield averages(
        f"relative distance of the gradient at u_n from the exact one, {_STEPS} solver steps",
        "relative distance",
        found,
        (f"u_{n}" for n in range(1, _STEPS + 1)),
        np.stack([*found.values()]),
        row_axis="Adjoint",
        column_axis="Adjoint state",
        drawing=Drawing.CURVES,
        logarithmic=True,
    )


APPENDIX_B = Experiment(
    "adjoint-convergence",
    "Appendix B",
    "Convergence of the simultaneous adjoint",
    (UNROLLED,),
    _measure,
    "Under mild assumptions u_n converges to u* for 0 < β < 1; attacks do not need that.",
)
