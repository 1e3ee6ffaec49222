"""Training on Lightning: objectives, regularisation, schedules, guards, and the run that writes weights."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from robustdeq.base.extras import extra
from robustdeq.training.hardware import Hardware
from robustdeq.training.inner import NFGSM
from robustdeq.training.margins import LipschitzMargin
from robustdeq.training.metrics import seconds_trained
from robustdeq.training.objectives import (
    TRADES,
    AdversarialTraining,
    NoiseAugmentation,
    NoisyFGSM,
    Objective,
    RandomState,
    Standard,
)
from robustdeq.training.plan import Plan, read_plan
from robustdeq.training.recipe import Guard, OverfittingWatch, Pretraining, Recipe, Schedule, Validation
from robustdeq.training.regularizers import (
    FixedPointCorrection,
    JacobianRegularization,
    Regularization,
    jacobian_penalty,
)
from robustdeq.training.schedules import Optimization, SolverSteps

if TYPE_CHECKING:
    from robustdeq.training.fitting import fit
    from robustdeq.training.module import Training

__all__ = [
    "NFGSM",
    "TRADES",
    "AdversarialTraining",
    "FixedPointCorrection",
    "Guard",
    "Hardware",
    "JacobianRegularization",
    "LipschitzMargin",
    "NoiseAugmentation",
    "NoisyFGSM",
    "Objective",
    "Optimization",
    "OverfittingWatch",
    "Plan",
    "Pretraining",
    "RandomState",
    "Recipe",
    "Regularization",
    "Schedule",
    "SolverSteps",
    "Standard",
    "Training",
    "Validation",
    "fit",
    "jacobian_penalty",
    "read_plan",
    "seconds_trained",
]

_ON_LIGHTNING = {"Training": "module", "fit": "fitting"}


def __getattr__(name: str) -> Any:
    """Imports what stands on Lightning when it is first used; a recipe is read and written without."""
    if name not in _ON_LIGHTNING:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with extra("train"):
        return getattr(import_module(f"robustdeq.training.{_ON_LIGHTNING[name]}"), name)
