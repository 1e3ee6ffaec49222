"""What a DEQ is: cell, tail, solve and model, the defenses that read it and the gradients that differentiate it."""

from robustdeq.deq.cell import BoundCell, Execution
from robustdeq.deq.defended import Defended
from robustdeq.deq.defenses import Defense, EarlyState, EnsembleState, FinalState
from robustdeq.deq.entropy import EntropyReduced, EntropyReduction
from robustdeq.deq.model import DEQ
from robustdeq.deq.tail import Unroll

__all__ = [
    "DEQ",
    "BoundCell",
    "Defended",
    "Defense",
    "EarlyState",
    "EnsembleState",
    "EntropyReduced",
    "EntropyReduction",
    "Execution",
    "FinalState",
    "Unroll",
]
