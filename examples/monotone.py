"""A monotone DEQ (Winston and Kolter, "Monotone operator equilibrium networks", NeurIPS 2020).

    robustdeq evaluate examples/monotone.py:build --model.m 0.5 --data digits --attack.eps 0.25

Whatever its weights are, z* = ReLU(W z* + U x + b) has one solution, and forward-backward splitting finds it.
"""

import torch
from torch import Tensor, nn

import robustdeq as rd


class Cell(nn.Module):
    """A step of forward-backward splitting: z ← ReLU((1 − α) z + α (W z + u)), W = (1 − m) I − AᵀA + B − Bᵀ, m > 0.

    For α = m / L², where L = ‖I − W‖, each step brings z nearer to z* by √(1 − m² / L²) or more.
    """

    def __init__(self, width: int, m: float) -> None:
        super().__init__()
        self.m = m
        self.a, self.b = (nn.Parameter(torch.randn(width, width) / (2 * width**0.5)) for _ in "ab")

    def bind(self, u: Tensor) -> rd.models.BoundCell:
        """The step for one u, with W and α computed once."""
        identity = torch.eye(len(self.a)).to(u)
        weight = (1 - self.m) * identity - self.a.T @ self.a + self.b - self.b.T
        alpha = self.m / torch.linalg.matrix_norm(identity - weight.detach(), ord=2) ** 2
        return rd.models.BoundCell(lambda z: torch.relu(z.lerp(z @ weight.T + u, alpha)), (u, weight))


def build(width: int = 32, m: float = 1.0, steps: int = 20) -> rd.DEQ:
    """The model with fresh weights, solved by plain iteration, on 8×8 images."""
    torch.manual_seed(0)
    return rd.DEQ(
        injection=nn.Sequential(nn.Flatten(), nn.Linear(64, width)),
        cell=Cell(width, m),
        head=nn.Linear(width, 10),
        solver=rd.solvers.Picard(max_steps=steps),
        gradient=rd.gradients.Exact(),
    )
