"""§6.1 and Appendix E.3: what the solver steps that retain the fixed-point structure cost in training."""

from __future__ import annotations

from functools import partial

import numpy as np

from robustdeq.study.claims.statement import Samples, Seed, Statement
from robustdeq.study.configurations import EXACT_18_20, EXACT_50_50, UNROLLED, Configuration
from robustdeq.study.paper.training_speed import TRAINING_SPEED, training_steps


def _slower(found: Seed, configuration: Configuration) -> Samples:
    _, seconds = found.once(training_steps)
    ours, unrolled = (np.array(seconds[way.title].seconds) for way in (configuration, UNROLLED))
    return ours / unrolled - 1


COST = tuple(
    Statement(
        f"{way.title} trains slower",
        "§6.1",
        (TRAINING_SPEED,),
        f"A step of {way.title} training takes longer than one of {UNROLLED.title} training (rounds in the place of "
        "images, fresh weights).",
        (),
        partial(_slower, configuration=way),
        "times longer",
    )
    for way in (EXACT_18_20, EXACT_50_50)
)
