"""§6.1 and Appendix E.3: what the solver steps that retain the fixed-point structure cost in training."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from robustdeq.study.claims.statement import Samples, Seed, Statement
from robustdeq.study.configurations import EXACT_18_20, EXACT_50_50, UNROLLED, Configuration
from robustdeq.study.paper.training_speed import TRAINING_SPEED, training_steps
from robustdeq.study.stopwatch import Timing
from robustdeq.study.study import Study

_ROUNDS = 16
"""Enough for a sign-flip test to tell after Holm's correction."""


def _timed(study: Study, seed: int) -> dict[str, Timing]:
    _, timings = training_steps(replace(study, effort=replace(study.effort, repetitions=_ROUNDS)), seed)
    return timings


def _slower(found: Seed, configuration: Configuration) -> Samples:
    seconds = found.once(_timed)
    ours, unrolled = (np.array(seconds[way.title].seconds) for way in (configuration, UNROLLED))
    return 100 * (ours / unrolled - 1)


COST = tuple(
    Statement(
        f"{way.title} trains slower",
        "§6.1",
        (TRAINING_SPEED,),
        f"A step of {way.title} training takes longer than one of {UNROLLED.title} training (rounds in the place of "
        "images, fresh weights).",
        (),
        partial(_slower, configuration=way),
        "% longer",
    )
    for way in (EXACT_18_20, EXACT_50_50)
)
