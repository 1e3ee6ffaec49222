"""The gradients that people import: `rd.gradients`."""

from robustdeq.deq.defenses import Defended
from robustdeq.deq.entropy import EntropyReduced, EntropyReduction
from robustdeq.deq.gradients import (
    SHINE,
    Ensemble,
    Exact,
    Family,
    Gradient,
    JacobianFree,
    Neumann,
    Phantom,
    SimultaneousAdjoint,
    StateGradient,
    Surrogate,
    ThroughSolver,
    UnrolledIntermediate,
)

__all__ = [
    "SHINE",
    "Defended",
    "Ensemble",
    "EntropyReduced",
    "EntropyReduction",
    "Exact",
    "Family",
    "Gradient",
    "JacobianFree",
    "Neumann",
    "Phantom",
    "SimultaneousAdjoint",
    "StateGradient",
    "Surrogate",
    "ThroughSolver",
    "UnrolledIntermediate",
]
