"""Deep equilibrium models and the explicit networks they are compared with."""

from robustdeq.models.deq import DEQ, BoundCell, Unroll

__all__ = ["DEQ", "BoundCell", "Unroll"]
