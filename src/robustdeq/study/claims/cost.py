"""§6.1, Appendices E.3 and F.1: what exact training costs in time, and the defenses in memory."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
from jaxtyping import Float

from robustdeq.study.claims.statement import Samples, Seed, Statement
from robustdeq.study.configurations import EXACT_18_20, EXACT_50_50, UNROLLED, Configuration
from robustdeq.study.paper.solve_memory import MEMORY, peaks
from robustdeq.study.paper.training_speed import TRAINING_SPEED, training_steps
from robustdeq.study.stopwatch import Timing
from robustdeq.study.study import Study, Trained

_ROUNDS = 16
"""Enough for a sign-flip test to tell after Holm's correction."""
_LEAST_STEPS = 8


def _timed(study: Study, seed: int) -> dict[str, Timing]:
    _, timings = training_steps(replace(study, effort=replace(study.effort, repetitions=_ROUNDS)), seed)
    return timings


def _slower(found: Seed, configuration: Configuration) -> Samples:
    seconds = found.once(_timed)
    ours, unrolled = (np.array(seconds[way.title].seconds) for way in (configuration, UNROLLED))
    return 100 * (ours / unrolled - 1)


def extra_memory(study: Study, trained: Trained, title: str) -> Float[np.ndarray, "defenses steps"]:
    """What the early and the ensemble defense hold beyond the final state, in states, by the number of solver steps."""
    x = study.tensors()[0][: study.batch_size]
    state = trained.deq.solution(x).final
    final, *others = peaks(trained, x, range(_LEAST_STEPS, _LEAST_STEPS + 1 + _ROUNDS))
    return (np.stack(others) - final) / (state.numel() * state.element_size())


def _constant_memory(found: Seed, defense: int) -> Samples:
    extra = found.of(extra_memory, UNROLLED)[defense]
    return 1.0 - (extra[1:] - extra[0])


COST = (
    *(
        Statement(
            f"{way.title} trains slower",
            "§6.1",
            (TRAINING_SPEED,),
            f"A step of {way.title} training takes longer than one of {UNROLLED.title} training (rounds in the place "
            "of images, fresh weights).",
            (),
            partial(_slower, configuration=way),
            "% longer",
        )
        for way in (EXACT_18_20, EXACT_50_50)
    ),
    *(
        Statement(
            f"the {name} needs constant memory",
            "§5.2",
            (MEMORY,),
            f"With more solver steps, what the {name} holds at most beyond the final state grows by less than a state "
            f"({_ROUNDS} numbers of steps in the place of images).",
            (UNROLLED,),
            partial(_constant_memory, defense=defense),
            "states inside the bound",
        )
        for defense, name in enumerate(("early state", "ensemble defense"))
    ),
)
