"""How a trajectory is differentiated."""

from robustdeq.gradients.adjoint import SimultaneousAdjoint
from robustdeq.gradients.base import Family, Gradient, StateGradient, Surrogate
from robustdeq.gradients.defended import Defended
from robustdeq.gradients.ensemble import Ensemble
from robustdeq.gradients.entropy import EntropyReduced, EntropyReduction
from robustdeq.gradients.implicit import SHINE, Exact, JacobianFree
from robustdeq.gradients.phantom import Neumann, Phantom
from robustdeq.gradients.solver import ThroughSolver
from robustdeq.gradients.unrolled import UnrolledIntermediate

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
