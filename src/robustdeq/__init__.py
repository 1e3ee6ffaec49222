"""Adversarial robustness of deep equilibrium models: measured, attacked and trained with honest gradients."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustdeq import (
        attacks,
        certificates,
        data,
        defenses,
        evaluation,
        gradients,
        models,
        reporting,
        solvers,
        study,
        training,
        zoo,
    )
    from robustdeq.base.errors import InputError
    from robustdeq.gradients import Defended, Surrogate
    from robustdeq.models import DEQ, Unroll, from_torchdeq, load, push, save
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
    "certificates",
    "data",
    "defenses",
    "evaluation",
    "from_torchdeq",
    "gradients",
    "load",
    "models",
    "push",
    "reporting",
    "save",
    "solvers",
    "study",
    "training",
    "zoo",
]

_HOMES = {
    "DEQ": "models",
    "Defended": "gradients",
    "InputError": "base.errors",
    "Surrogate": "gradients",
    "Trajectory": "solvers",
    "Unroll": "models",
    "from_torchdeq": "models",
    "load": "models",
    "push": "models",
    "save": "models",
}


def __getattr__(name: str) -> Any:
    """Imports a part of the package when it is first used, so that `robustdeq --help` does not wait for PyTorch."""
    if name in _HOMES:
        return getattr(import_module(f"robustdeq.{_HOMES[name]}"), name)
    if name in __all__:
        return import_module(f"robustdeq.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
