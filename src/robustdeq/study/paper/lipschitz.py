"""Appendix E.4: the Lipschitz constant of f at the fixed point over the course of the training."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from robustdeq.base.errors import require
from robustdeq.deq.modes import evaluating
from robustdeq.study.configurations import EXACT_8_7, EXACT_18_20, UNROLLED
from robustdeq.study.experiment import Experiment
from robustdeq.study.panel import Drawing, Panel, Panels
from robustdeq.study.study import Study, Trained
from robustdeq.training.spectrum import lipschitz_constant

_COMPARED = (UNROLLED, EXACT_8_7, EXACT_18_20)
_MEASURED = {
    "lipschitz": "Lipschitz constant of f at z*, ‖∂f/∂z‖₂",
    "spectral_radius": "spectral radius of ∂f/∂z at z*",
}


def lipschitz_constants(study: Study, trained: Trained, title: str) -> Float[np.ndarray, "samples"]:
    """‖∂f/∂z‖₂ at z* of the trained model, on every clean image."""
    found = []
    with evaluating(trained.deq):
        for x, _ in study.batches(title):
            generator = torch.Generator(x.device).manual_seed(0)
            found.append(lipschitz_constant(trained.deq.solution(x), generator=generator))
    return torch.cat(found).double().cpu().numpy()


def _measure(study: Study) -> Panels:
    courses = []
    for configuration in _COMPARED:
        metrics = study.trained(configuration).metrics
        assert metrics is not None
        courses.append(pd.read_csv(metrics)[["step", *_MEASURED]].dropna().set_index("step"))
    steps = [int(step) for step in courses[0].index if all(step in course.index for course in courses)]
    require(steps, "the trainings have no validation in common; train them with the same schedule.")
    for name, title in _MEASURED.items():
        yield Panel(
            title,
            "",
            tuple(configuration.title for configuration in _COMPARED),
            tuple(map(str, steps)),
            np.array([course.loc[steps, name].to_numpy(float) for course in courses]),
            "Training configuration",
            "Training step",
            drawing=Drawing.CURVES,
        )


LIPSCHITZ = Experiment(
    "lipschitz",
    "Appendix E.4",
    "The Lipschitz constant of f in the course of training",
    _COMPARED,
    _measure,
    "The paper traces it to explain why exact training with few solver steps is unstable.",
    trains=True,
)
