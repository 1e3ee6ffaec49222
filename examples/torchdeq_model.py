"""A model built with TorchDEQ for the command line: it is attacked as it is, through its own Anderson solver.

robustdeq evaluate examples/torchdeq_model.py:build --data digits --attack.eps 0.25
"""

import torch
from torch import Tensor, nn
from torchdeq import get_deq


class Classifier(nn.Module):
    """A dense DEQ on 8×8 images."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Flatten(), nn.Linear(64, width))
        self.mix = nn.Linear(width, width)
        self.deq = get_deq(f_solver="anderson", f_max_iter=12, f_tol=1e-3, f_stop_mode="rel")
        self.head = nn.Linear(width, 10)
        nn.init.normal_(self.mix.weight, std=0.5 / width**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        u = self.stem(x)
        states, _ = self.deq(lambda z: torch.tanh(self.mix(z) + u), torch.zeros_like(u))
        return self.head(states[-1])


def build(width: int = 32) -> nn.Module:
    """The model with fresh weights."""
    torch.manual_seed(0)
    return Classifier(width)
