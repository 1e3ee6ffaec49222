"""Appendix E.3: how fast each way of training is, all measured in turn in one run."""

from __future__ import annotations

import numpy as np
import torch

from robustdeq.deq import DEQ
from robustdeq.study.configurations import ALIGNED, EXACT_8_7, EXACT_18_20, EXACT_50_50, UNROLLED
from robustdeq.study.experiment import Experiment
from robustdeq.study.panel import RANGE, Drawing, Panel
from robustdeq.study.stopwatch import interleaved
from robustdeq.study.study import Study
from robustdeq.training.step import single_step

_COMPARED = (UNROLLED, EXACT_8_7, EXACT_18_20, EXACT_50_50, ALIGNED)


def _measure(study: Study) -> tuple[Panel, ...]:
    train = study.splits.require("train")
    plans = {way.title: study.scale.plan(way, study.size) for way in _COMPARED}
    batch = min(plans[UNROLLED.title].recipe.schedule.batch_size, len(train))
    x, y = (tensor.to(study.device) for tensor in train.head(batch).tensors())
    torch.manual_seed(0)
    steps = {}
    for title, plan in plans.items():
        model = plan.build(train).to(study.device)
        assert isinstance(model, DEQ)
        steps[title] = single_step(model, plan.recipe, x, y)
    with study.progress(TRAINING_SPEED.name) as report:
        timings = interleaved(steps, study.effort.repetitions, report)
    seconds = np.array([[timing.median, min(timing.seconds), max(timing.seconds)] for timing in timings.values()])
    rates, relative = batch / seconds, seconds[0, 0] / seconds
    return tuple(
        Panel(
            title,
            unit,
            tuple(plans),
            (f"batch of {batch}",),
            values[:, :1],
            row_axis="Training configuration",
            low=values[:, 2:],
            high=values[:, 1:2],
            drawing=Drawing.BARS,
            interval=RANGE,
        )
        for title, unit, values in (
            ("one step of adversarial training, fresh weights", "images/s", rates),
            ("relative to unrolled training", "times", relative),
        )
    )


TRAINING_SPEED = Experiment(
    "training-speed",
    "Appendix E.3",
    "Speed of the ways of training",
    (),
    _measure,
    "Many solver steps keep the fixed-point structure of the exact-trained DEQ and slow its training down.",
)
