"""Deep equilibrium models and the explicit networks they are compared with."""

from robustdeq.models.deq import DEQ, BoundCell, Unroll
from robustdeq.models.mdeq import MDEQ, PRESETS, MDEQConfig, mdeq
from robustdeq.models.zoo import load, save

__all__ = ["DEQ", "MDEQ", "PRESETS", "BoundCell", "MDEQConfig", "Unroll", "load", "mdeq", "save"]
