"""A model whose solve diverges on brighter images, though its head would go on calling them class 0."""

import torch
from torch import Tensor, nn

from robustdeq.models import DEQ
from robustdeq.solvers import Picard


class Runaway(nn.Module):
    def forward(self, z: Tensor, u: Tensor) -> Tensor:
        return torch.where(u > 0.5, 4.0, 0.1).to(u) * z + u


class Sign(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return torch.stack([z.flatten(1).sum(dim=1), z.new_zeros(len(z))], dim=1)


def diverging() -> DEQ:
    return DEQ(nn.Identity(), Runaway(), Sign(), Picard(max_steps=12, tol=1e-3, divergence=1e3)).eval()


DIM, BRIGHT = torch.full((4, 1, 2, 2), 0.4), torch.full((4, 1, 2, 2), 0.6)
CLASS = torch.zeros(4, dtype=torch.int64)
