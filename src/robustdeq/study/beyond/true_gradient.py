"""Agreement of every estimate with the gradient through the solver: cosine and share of equal signs, per state."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from robustdeq.deq.defenses import FinalState
from robustdeq.deq.gradients import Surrogate, ThroughSolver
from robustdeq.deq.modes import evaluating
from robustdeq.evaluation.agreement import cosine, equal_signs, estimated_gradients, true_gradients
from robustdeq.study.configurations import UNROLLED
from robustdeq.study.experiment import BEYOND, Experiment
from robustdeq.study.panel import Panel, means
from robustdeq.study.study import Study

Agreement = Callable[[Tensor, Tensor], Tensor]


_AGREEMENTS: dict[str, tuple[str, Agreement]] = {"cosine": ("", cosine), "equal signs": ("%", equal_signs)}


def _measure(study: Study) -> tuple[Panel, ...]:
    trained = study.trained(UNROLLED)
    deq = trained.deq
    x, y = study.tensors()
    parts = list(zip(x.split(study.batch_size), y.split(study.batch_size), strict=True))
    found: dict[tuple[str, str], list[Tensor]] = {}
    names: tuple[str, ...] = ()
    with evaluating(deq), study.progress(TRUE_GRADIENT.name) as report:
        attacked = Surrogate(deq, ThroughSolver(FinalState()))
        for done, (images, labels) in enumerate(parts):
            report(done / len(parts), f"batch {done + 1} of {len(parts)}")

            def loss(logits: Tensor, labels: Tensor = labels) -> Tensor:
                return F.cross_entropy(logits, labels, reduction="none")

            inputs = {"clean images": images, "adversaries of the final state": study.attack(attacked, images, labels)}
            for where, given in inputs.items():
                true, estimated = (
                    true_gradients(deq, given, loss),
                    estimated_gradients(deq, given, loss, study.estimators),
                )
                names = tuple(estimated)
                for measure, (_, agreement) in _AGREEMENTS.items():
                    values = torch.stack([agreement(gradient, true) for gradient in estimated.values()])
                    found.setdefault((measure, where), []).append(values.double().cpu())
        report(1.0, "done")
    return tuple(
        Panel(
            f"{measure} with the gradient through the solver, {where}",
            _AGREEMENTS[measure][0],
            names,
            tuple(trained.states),
            **means(np.concatenate(values, axis=2)),
            row_axis="Estimate",
            column_axis="State",
        )
        for (measure, where), values in found.items()
    )


TRUE_GRADIENT = Experiment(
    "true-gradient",
    BEYOND,
    "Agreement of every estimate with the gradient through the solver",
    (UNROLLED,),
    _measure,
)
