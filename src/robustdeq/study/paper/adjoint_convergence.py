"""Appendix B: the gradient at the adjoint state u_n approaches the exact gradient as the solve goes on.

The solve is given more steps than in training, in double precision and without a tolerance, so that there is an
equilibrium to approach; z* and the exact gradient are taken at its end.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from robustdeq.deq.gradients import Exact, SimultaneousAdjoint
from robustdeq.deq.modes import evaluating
from robustdeq.study.configurations import UNROLLED
from robustdeq.study.experiment import Experiment
from robustdeq.study.panel import Drawing, Panel, means
from robustdeq.study.study import Study

_STEPS = 30
_STEP_SIZES = (1.0, 0.5, 0.25)


def _measure(study: Study) -> tuple[Panel, ...]:
    trained = copy.deepcopy(study.trained(UNROLLED).deq).double()
    deq = trained.with_settings(solver=replace(trained.solver, max_steps=_STEPS, tol=0.0))
    x, y = study.tensors()
    adjoints = {
        f"β = {size:g}, {name}": SimultaneousAdjoint(None, size, transpose)
        for name, transpose in (("B_nᵀ", True), ("B_n", False))
        for size in _STEP_SIZES
    }
    batches = []
    with evaluating(deq), study.progress(APPENDIX_B.name) as report:
        parts = list(zip(x.double().split(study.batch_size), y.split(study.batch_size), strict=True))
        for done, (images, labels) in enumerate(parts):
            report(done / len(parts), f"batch {done + 1} of {len(parts)}")

            def loss(logits: Tensor, labels: Tensor = labels) -> Tensor:
                return F.cross_entropy(logits, labels, reduction="none")

            exact = Exact(max_steps=2 * _STEPS, tol=1e-10).input_gradient(deq, images, loss).flatten(1)
            errors = [
                (adjoint.input_gradients(deq, images, loss)[:_STEPS].flatten(2) - exact).norm(dim=2) / exact.norm(dim=1)
                for adjoint in adjoints.values()
            ]
            batches.append(torch.stack(errors).cpu().numpy())
        report(1.0, "done")
    return (
        Panel(
            f"relative distance of the gradient at u_n from the exact one, {_STEPS} solver steps",
            "relative distance",
            tuple(adjoints),
            tuple(f"u_{n}" for n in range(1, _STEPS + 1)),
            **means(np.concatenate(batches, axis=2)),
            row_axis="Adjoint",
            column_axis="Adjoint state",
            drawing=Drawing.CURVES,
            logarithmic=True,
        ),
    )


APPENDIX_B = Experiment(
    "adjoint-convergence",
    "Appendix B",
    "Convergence of the simultaneous adjoint",
    (UNROLLED,),
    _measure,
    "Under mild assumptions u_n converges to u* for 0 < β < 1; attacks do not need that.",
)
