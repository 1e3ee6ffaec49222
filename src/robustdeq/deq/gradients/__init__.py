"""How a trajectory is differentiated."""

from robustdeq.deq.gradients.adjoint import SimultaneousAdjoint
from robustdeq.deq.gradients.base import Family, Surrogate
from robustdeq.deq.gradients.ensemble import Ensemble
from robustdeq.deq.gradients.implicit import SHINE, Exact, JacobianFree
from robustdeq.deq.gradients.phantom import Neumann, Phantom, own_gradient
from robustdeq.deq.gradients.reversal import Reversed
from robustdeq.deq.gradients.solver import ThroughSolver
from robustdeq.deq.gradients.unrolled import UnrolledIntermediate
from robustdeq.deq.model import Gradient, StateGradient

__all__ = [
    "SHINE",
    "Ensemble",
    "Exact",
    "Family",
    "Gradient",
    "JacobianFree",
    "Neumann",
    "Phantom",
    "Reversed",
    "SimultaneousAdjoint",
    "StateGradient",
    "Surrogate",
    "ThroughSolver",
    "UnrolledIntermediate",
    "own_gradient",
]
