r"""Three defenses of one's own as rows of the table: modules from images to logits around a model.

    robustdeq evaluate examples/own_cell.py:build --data digits --attack.eps 0.25 --protocol strict \
        --defenses.median examples/own_defenses.py:MedianOfStates --defenses.noise examples/own_defenses.py:NoiseMean \
        --defenses.rounded examples/own_defenses.py:Rounded

The strict protocol attacks each of them adaptively, with that defense as the judge.
"""

import torch
from torch import Tensor, nn

import robustdeq as rd


class MedianOfStates(nn.Module):
    """The median of the logits of the last three states."""

    def __init__(self, deq: rd.DEQ) -> None:
        super().__init__()
        last = range(deq.last_state - 2, deq.last_state + 1)
        self.states = nn.ModuleList(rd.Defended(deq, rd.defenses.EarlyState(n)) for n in last)

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        return torch.stack([state(x) for state in self.states]).median(dim=0).values


class NoiseMean(nn.Module):
    """The mean of the logits of four noisy copies of the image, always with the same noise."""

    def __init__(self, deq: rd.DEQ) -> None:
        super().__init__()
        self.final = rd.Defended(deq, rd.defenses.FinalState())

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        noise = 0.1 * torch.randn(4, *x.shape[1:], generator=torch.Generator().manual_seed(0)).to(x)
        return torch.stack([self.final((x + part).clamp(0, 1)) for part in noise]).mean(dim=0)


class Rounded(nn.Module):
    """The model on pixels of four levels; attacks see through the rounding as if it were not there."""

    def __init__(self, deq: rd.DEQ) -> None:
        super().__init__()
        self.final = rd.Defended(deq, rd.defenses.FinalState())

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        return self.final(x + ((3 * x).round() / 3 - x).detach())
