"""The models that people import: `rd.models`."""

from robustdeq import zoo
from robustdeq.deq import DEQ, BoundCell, Unroll
from robustdeq.deq.reversible import reversible
from robustdeq.zoo import *  # noqa: F403

__all__ = ["DEQ", "BoundCell", "Unroll", "reversible"]
__all__ += zoo.__all__
