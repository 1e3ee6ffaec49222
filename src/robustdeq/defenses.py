"""The defenses that people import: `rd.defenses`."""

from robustdeq.deq.declared import Randomised, Transformed
from robustdeq.deq.defenses import (
    Around,
    AsIs,
    Defended,
    Defense,
    EarlyState,
    EnsembleState,
    FinalState,
    StateDefense,
    defended_logits,
    state_logits,
)
from robustdeq.deq.entropy import EntropyReduced, EntropyReduction
from robustdeq.deq.other_solve import OtherSolve

__all__ = [
    "Around",
    "AsIs",
    "Defended",
    "Defense",
    "EarlyState",
    "EnsembleState",
    "EntropyReduced",
    "EntropyReduction",
    "FinalState",
    "OtherSolve",
    "Randomised",
    "StateDefense",
    "Transformed",
    "defended_logits",
    "state_logits",
]
