"""Appendix F.1: peak memory of each defense, in a solve of one batch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float

from robustdeq.base.shapes import Pixels
from robustdeq.deq import Defended
from robustdeq.deq.modes import evaluating
from robustdeq.study.configurations import UNROLLED
from robustdeq.study.experiment import Experiment
from robustdeq.study.grids import DEFENSES
from robustdeq.study.panel import Drawing, Panel, Panels
from robustdeq.study.stopwatch import peak_bytes
from robustdeq.study.study import Study, Trained

_STEPS = (8, 16, 32)


def peaks(trained: Trained, x: Pixels, steps: Iterable[int]) -> Float[np.ndarray, "defenses steps"]:
    """The most bytes of tensors that each defense holds while a solve takes so many steps, for every number of steps.

    Args:
        trained: the model.
        x: the images.
        steps: of the solver.
    """
    deq = trained.deq
    longer = [deq.with_settings(solver=replace(deq.solver, max_steps=count, tol=0.0)) for count in steps]
    with evaluating(deq), torch.no_grad():
        read = [[partial(Defended(model, defense), x) for model in longer] for defense in trained.defenses.values()]
        return np.array([[*map(peak_bytes, row)] for row in read], float)


def _measure(study: Study) -> Panels:
    x, _ = study.tensors()
    yield Panel(
        f"peak memory of tensors, batch of {len(x[: study.batch_size])}",
        "MiB",
        DEFENSES,
        tuple(f"N = {steps}" for steps in _STEPS),
        peaks(study.trained(UNROLLED), x[: study.batch_size], _STEPS) / 2**20,
        "Defense",
        "Solver steps",
        drawing=Drawing.BARS,
    )


MEMORY = Experiment(
    "memory",
    "Appendix F.1",
    "Peak memory of the defenses",
    (UNROLLED,),
    _measure,
    "The defenses need O(1) memory only: an accumulator, or an early exit.",
    legend="What grows with N is Broyden's memory of its steps, with or without a defense.",
)
