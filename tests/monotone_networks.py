"""Small monotone DEQs, trained a little, and images to certify them on."""

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from robustdeq.gradients import Exact
from robustdeq.zoo.monotone import MonotoneConfig, MonotoneNetwork

DENSE = MonotoneConfig(channels=9, m=0.5, side=1, patch=4, image_size=4, max_steps=60, tol=1e-6)
CONV = MonotoneConfig(channels=3, m=0.5, pooled=3, image_size=4, max_steps=60, tol=1e-6)
CLASSES = 3


def images(count: int = 12, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images of three classes: which third of the channels is brightest, roughly."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(CLASSES, (count,), generator=generator)
    x = 0.5 * torch.rand(count, 1, 4, 4, generator=generator)
    x[torch.arange(count), 0, y] += 0.4
    return x, y


@cache
def trained(config: MonotoneConfig, double: bool = False) -> MonotoneNetwork:
    """A model after some steps of training, the same at every call."""
    torch.manual_seed(0)
    model = config.network(CLASSES, 1)
    model.gradient = Exact()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    x, y = images(64, seed=1)
    for _ in range(30):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return (model.double() if double else model).eval()
