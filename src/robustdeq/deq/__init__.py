"""What a DEQ is: cell, tail, solve and model, the defenses that read it and the gradients that differentiate it."""

from robustdeq.deq.cell import BoundCell, Execution
from robustdeq.deq.defenses import Around, AsIs, Defended, Defense, EarlyState, EnsembleState, FinalState, StateDefense
from robustdeq.deq.entropy import EntropyReduced, EntropyReduction
from robustdeq.deq.model import DEQ
from robustdeq.deq.tail import Unroll

__all__ = [
    "DEQ",
    "Around",
    "AsIs",
    "BoundCell",
    "Defended",
    "Defense",
    "EarlyState",
    "EnsembleState",
    "EntropyReduced",
    "EntropyReduction",
    "Execution",
    "FinalState",
    "StateDefense",
    "Unroll",
]
