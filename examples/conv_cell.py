"""A DEQ of one's own for the command line: `build` makes it, and no line of robustdeq knows of it.

robustdeq evaluate examples/conv_cell.py:build --model.solver anderson --data digits --attack.eps 0.25
"""

import torch
from torch import Tensor, nn

import robustdeq as rd


class Cell(nn.Module):
    """F(z; u) = GroupNorm(tanh(W ∗ z + u))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.norm = nn.GroupNorm(4, channels)

    def forward(self, z: Tensor, u: Tensor) -> Tensor:
        """The next state."""
        return self.norm(torch.tanh(self.mix(z) + u))


def build(width: int = 16, solver: str = "broyden", steps: int = 6) -> rd.DEQ:
    """The model with fresh weights, solved by Broyden's or Anderson's method."""
    torch.manual_seed(0)
    method = {"broyden": rd.solvers.Broyden, "anderson": rd.solvers.Anderson}[solver]
    return rd.DEQ(
        injection=nn.Conv2d(1, width, kernel_size=3, padding=1),
        cell=Cell(width),
        head=nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16 * width, 10)),
        solver=method(max_steps=steps),
        gradient=rd.gradients.Phantom(steps=3, damping=0.5),
    )
