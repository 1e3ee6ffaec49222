"""Monotone DEQs (Winston and Kolter, NeurIPS 2020): one equilibrium, whatever the weights, and no solver to trust."""

from robustdeq.deq.monotone.model import MonotoneDEQ
from robustdeq.deq.monotone.operators import Contracting, Given, Monotone, Operator
from robustdeq.deq.monotone.splittings import ForwardBackward, PeacemanRachford, Splitting

__all__ = [
    "Contracting",
    "ForwardBackward",
    "Given",
    "Monotone",
    "MonotoneDEQ",
    "Operator",
    "PeacemanRachford",
    "Splitting",
]
