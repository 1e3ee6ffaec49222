"""Training on Lightning: objectives, regularisation, and the run that writes weights."""

from robustdeq.training.module import DEQTraining, Optimization, Validation
from robustdeq.training.objectives import AdversarialTraining, Objective, Standard
from robustdeq.training.regularizers import JacobianRegularization, jacobian_penalty
from robustdeq.training.run import Recipe, Schedule, fit

__all__ = [
    "AdversarialTraining",
    "DEQTraining",
    "JacobianRegularization",
    "Objective",
    "Optimization",
    "Recipe",
    "Schedule",
    "Standard",
    "Validation",
    "fit",
    "jacobian_penalty",
]
