"""Adversarial robustness of deep equilibrium models: measured, attacked and trained with honest gradients."""

from robustdeq import attacks, data, defenses, evaluation, gradients, models, solvers, zoo
from robustdeq.base.errors import InputError
from robustdeq.gradients import Defended, Surrogate
from robustdeq.models import DEQ, Unroll, from_torchdeq, load, save
from robustdeq.solvers import Trajectory

__version__ = "0.1.0"

__all__ = [
    "DEQ",
    "Defended",
    "InputError",
    "Surrogate",
    "Trajectory",
    "Unroll",
    "attacks",
    "data",
    "defenses",
    "evaluation",
    "from_torchdeq",
    "gradients",
    "load",
    "models",
    "save",
    "solvers",
    "zoo",
]
