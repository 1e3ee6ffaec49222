"""Any module from images to logits goes the same way: by PGD and the standard AutoAttack.

robustdeq evaluate examples/plain_network.py:build --data digits --attack.eps 0.25
"""

import torch
from torch import nn


def build(width: int = 16) -> nn.Module:
    """A small convolutional network with fresh weights."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, width, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * width, 10),
    )
