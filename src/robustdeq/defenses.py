"""The defenses that people import: `rd.defenses`."""

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
    "StateDefense",
    "defended_logits",
    "state_logits",
]
