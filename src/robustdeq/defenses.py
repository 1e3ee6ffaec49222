"""The defenses that people import: `rd.defenses`."""

from robustdeq.deq.defended import Defended
from robustdeq.deq.defenses import Defense, EarlyState, EnsembleState, FinalState, defended_logits, state_logits
from robustdeq.deq.entropy import EntropyReduced, EntropyReduction

__all__ = [
    "Defended",
    "Defense",
    "EarlyState",
    "EnsembleState",
    "EntropyReduced",
    "EntropyReduction",
    "FinalState",
    "defended_logits",
    "state_logits",
]
