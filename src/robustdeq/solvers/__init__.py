"""Fixed-point solvers and the trajectories they leave."""

from robustdeq.solvers.anderson import Anderson
from robustdeq.solvers.base import Iterate, Iteration, Result, Solver, StopRule, Trajectory
from robustdeq.solvers.broyden import Broyden
from robustdeq.solvers.inverse import InverseJacobian
from robustdeq.solvers.picard import Picard

__all__ = [
    "Anderson",
    "Broyden",
    "InverseJacobian",
    "Iterate",
    "Iteration",
    "Picard",
    "Result",
    "Solver",
    "StopRule",
    "Trajectory",
]
