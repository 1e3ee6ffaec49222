"""One step of a training by itself, adversaries included: what is timed where trainings are compared."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from robustdeq.base.shapes import Labels
from robustdeq.deq import DEQ
from robustdeq.training.learner import learner
from robustdeq.training.objectives import Moment
from robustdeq.training.recipe import Recipe


def single_step(
    deq: DEQ, recipe: Recipe, x: Float[Tensor, "batch channels height width"], y: Labels
) -> Callable[[], None]:
    """The first step of a training on one batch, to be made again and again with the same random numbers.

    Nothing is augmented, penalised, averaged or logged.

    Args:
        deq: the model, with the gradient of its weights; it is trained.
        recipe: the objective, the optimiser, the solver steps and how f is evaluated.
        x: images in [0, 1].
        y: their labels.
    """
    optimizer = recipe.optimization.optimizer(deq)
    pupil = learner(deq).executed(recipe.execution).solved(**recipe.solver_steps.at(0.0))

    def run() -> None:
        moment = Moment(0, 0.0, torch.Generator(x.device).manual_seed(0))
        pupil.model.train()
        found = recipe.objective.adversaries(pupil.model, x, y, moment)
        loss = recipe.objective.read(pupil.model, x, y, found, moment).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return run
