"""The gradients that people import: `rd.gradients`."""

from robustdeq.deq import Defended, EntropyReduced, EntropyReduction, gradients
from robustdeq.deq.gradients import *  # noqa: F403

__all__ = ["Defended", "EntropyReduced", "EntropyReduction"]
__all__ += gradients.__all__
