"""Appendix E.3: how fast each way of training is, all measured in turn in one run."""

from __future__ import annotations

import torch

from robustdeq.deq import DEQ
from robustdeq.study.configurations import ALIGNED, EXACT_8_7, EXACT_18_20, EXACT_50_50, UNROLLED
from robustdeq.study.experiment import Experiment
from robustdeq.study.panel import Panels, bars
from robustdeq.study.stopwatch import Timing, interleaved
from robustdeq.study.study import Study
from robustdeq.training.step import single_step

_COMPARED = (UNROLLED, EXACT_8_7, EXACT_18_20, EXACT_50_50, ALIGNED)


def training_steps(study: Study, seed: int = 0) -> tuple[int, dict[str, Timing]]:
    """The size of the batch, and the times of a training step from fresh weights, by title and in turn."""
    train = study.splits.require("train")
    plans = {way.title: study.scale.plan(way, study.size) for way in _COMPARED}
    batch = min(plans[UNROLLED.title].recipe.schedule.batch_size, len(train))
    x, y = (tensor.to(study.device) for tensor in train.head(batch).tensors())
    torch.manual_seed(seed)
    steps = {}
    for title, plan in plans.items():
        model = plan.build(train).to(study.device)
        assert isinstance(model, DEQ)
        steps[title] = single_step(model, plan.recipe, x, y)
    with study.progress(TRAINING_SPEED.name) as report:
        return batch, interleaved(steps, study.effort.repetitions, report)


def _measure(study: Study) -> Panels:
    batch, timings = training_steps(study)
    rates = {title: [batch / seconds for seconds in timing.seconds] for title, timing in timings.items()}
    column, axis, unrolled = f"batch of {batch}", "Training configuration", timings[UNROLLED.title].median
    yield bars("one step of adversarial training, fresh weights", "images/s", column, rates, axis)
    yield bars("relative to unrolled training", "times", column, rates, axis, scale=unrolled / batch)


TRAINING_SPEED = Experiment(
    "training-speed",
    "Appendix E.3",
    "Speed of the ways of training",
    (),
    _measure,
    "Many solver steps keep the fixed-point structure of the exact-trained DEQ and slow its training down.",
)
