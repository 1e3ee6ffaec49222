"""Appendix F.1: peak memory of each defense, in a solve of one batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from robustdeq.deq import Defended
from robustdeq.deq.modes import evaluating
from robustdeq.study.configurations import UNROLLED
from robustdeq.study.experiment import Experiment
from robustdeq.study.grids import DEFENSES
from robustdeq.study.panel import Drawing, Panel, Panels
from robustdeq.study.stopwatch import peak_bytes
from robustdeq.study.study import Study

_STEPS = (8, 16, 32)


def _measure(study: Study) -> Panels:
    trained = study.trained(UNROLLED)
    deq = trained.deq
    x = study.tensors()[0][: study.batch_size]
    peaks = []
    with evaluating(deq), torch.no_grad():
        for defense in trained.defenses.values():
            peaks.append([])
            for steps in _STEPS:
                longer = deq.with_settings(solver=replace(deq.solver, max_steps=steps, tol=0.0))
                read = Defended(longer, defense)
                peaks[-1].append(peak_bytes(lambda read=read: read(x)) / 2**20)
    yield Panel(
        f"peak memory of tensors, batch of {len(x)}",
        "MiB",
        DEFENSES,
        tuple(f"N = {steps}" for steps in _STEPS),
        np.array(peaks),
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
