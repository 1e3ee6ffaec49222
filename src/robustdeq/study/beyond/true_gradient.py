"""Agreement of every estimate with the gradient through the solver: cosine and share of equal signs, per state."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from robustdeq.attacks.losses import cross_entropy
from robustdeq.deq.defenses import FinalState
from robustdeq.deq.gradients import Surrogate, ThroughSolver
from robustdeq.deq.modes import evaluating
from robustdeq.evaluation.agreement import cosine, equal_signs, estimated_gradients, true_gradients
from robustdeq.study.configurations import UNROLLED
from robustdeq.study.experiment import BEYOND, Experiment
from robustdeq.study.panel import Panels, averages
from robustdeq.study.study import Study

Agreement = Callable[[Tensor, Tensor], Tensor]


_AGREEMENTS: dict[str, tuple[str, Agreement]] = {"cosine": ("", cosine), "equal signs": ("%", equal_signs)}


def _measure(study: Study) -> Panels:
    trained = study.trained(UNROLLED)
    deq = trained.deq
    found: dict[tuple[str, str], list[Tensor]] = {}
    names: tuple[str, ...] = ()
    with evaluating(deq):
        attacked = Surrogate(deq, ThroughSolver(FinalState()))
        for x, y in study.batches(TRUE_GRADIENT.name):
            loss = partial(cross_entropy, y=y)
            inputs = {"clean images": x, "adversaries of the final state": study.attack(attacked, x, y)}
            for where, given in inputs.items():
                true = true_gradients(deq, given, loss)
                estimated = estimated_gradients(deq, given, loss, study.estimators)
                names = tuple(estimated)
                for measure, (_, agreement) in _AGREEMENTS.items():
                    values = torch.stack([agreement(gradient, true) for gradient in estimated.values()])
                    found.setdefault((measure, where), []).append(values.double().cpu())
    for (measure, where), values in found.items():
        yield averages(
            f"{measure} with the gradient through the solver, {where}",
            _AGREEMENTS[measure][0],
            names,
            trained.states,
            np.concatenate(values, axis=2),
            row_axis="Estimate",
            column_axis="State",
        )


TRUE_GRADIENT = Experiment(
    "true-gradient",
    BEYOND,
    "Agreement of every estimate with the gradient through the solver",
    (UNROLLED,),
    _measure,
)
