"""Adversarial robustness of deep equilibrium models."""

from robustdeq import attacks, defenses, gradients, models, solvers
from robustdeq.gradients import Defended, Surrogate
from robustdeq.models import DEQ, Unroll
from robustdeq.solvers import Trajectory

__all__ = [
    "DEQ",
    "Defended",
    "Surrogate",
    "Trajectory",
    "Unroll",
    "attacks",
    "defenses",
    "gradients",
    "models",
    "solvers",
]
