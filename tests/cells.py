"""Small equilibrium models whose every derivative can be written down densely."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustdeq.deq.cell import BoundCell
from robustdeq.deq.model import DEQ, StateGradient
from robustdeq.deq.tail import Unroll
from robustdeq.solvers import Broyden, Solver

IMAGE = (1, 2, 3)
CLASSES = 3
VECTOR = 7
CHANNELS = 2


def with_norm(matrix: Tensor, norm: float) -> Tensor:
    return matrix * (norm / torch.linalg.matrix_norm(matrix, ord=2))


class TanhCell(nn.Module):
    """tanh(W z + u) with ‖W‖ = norm."""

    def __init__(self, norm: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(with_norm(torch.randn(VECTOR, VECTOR), norm))

    def forward(self, z: Tensor, u: Tensor) -> Tensor:
        return torch.tanh(z @ self.weight.T + u)


class OwnStartCell(TanhCell):
    """A cell whose z_0 depends on u."""

    def initial_state(self, u: Tensor) -> Tensor:
        return torch.sin(2 * u)


class BoundCellModule(TanhCell):
    """A cell whose weight is normalised once per solve."""

    def __init__(self, norm: float) -> None:
        super().__init__(norm)
        self.norm = norm

    def bind(self, u: Tensor) -> BoundCell:
        weight = self.weight * (self.norm / self.weight.norm())
        return BoundCell(lambda z: torch.tanh(z @ weight.T + u), (u, weight))

    def forward(self, z: Tensor, u: Tensor) -> Tensor:
        return self.bind(u)(z)


class ConvolutionCell(nn.Module):
    """A cell on states (B, C, H, W)."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        with torch.no_grad():
            self.convolution.weight.mul_(scale)

    def forward(self, z: Tensor, u: Tensor) -> Tensor:
        return torch.tanh(self.convolution(z) + u)


class OvershootingCell(nn.Module):
    """tanh(u − 3 z), elementwise: a full step of a solver overshoots the fixed point, and a line search shortens it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(-3 * torch.eye(VECTOR))

    def forward(self, z: Tensor, u: Tensor) -> Tensor:
        return torch.tanh(z @ self.weight.T + u)


class BurstingCell(nn.Module):
    """3 z + u, and not a number beyond a radius: every solve starts well and diverges later."""

    def forward(self, z: Tensor, u: Tensor) -> Tensor:
        far = z.norm(dim=1, keepdim=True) > 30 * u.norm(dim=1, keepdim=True)
        return torch.where(far, torch.nan, 3 * z + u)


TAILS = {
    "step": Unroll(1, 1.0),
    "damped-from-image": Unroll(5, 0.5, from_image=True),
    "image": Unroll(0, 1.0, from_image=True),
}
CELLS: dict[str, Callable[[], nn.Module]] = {
    "contractive": lambda: TanhCell(0.7),
    "expansive": lambda: TanhCell(2.0),
    "convolution": lambda: ConvolutionCell(1.0),
    "own-start": lambda: OwnStartCell(0.8),
    "bound": lambda: BoundCellModule(1.2),
}
WILD: dict[str, Callable[[], nn.Module]] = {"overshooting": OvershootingCell, "bursting": BurstingCell}


def make_deq(
    cell: str = "contractive",
    solver: Solver | None = None,
    tail: Unroll | None = None,
    gradient: StateGradient | None = None,
) -> DEQ:
    """A model with fixed random weights; its solver takes six steps unless another is given."""
    torch.manual_seed(7)
    if cell == "convolution":
        injection: nn.Module = nn.Conv2d(IMAGE[0], CHANNELS, 3, padding=1)
        dim = CHANNELS * IMAGE[1] * IMAGE[2]
    else:
        injection = nn.Sequential(nn.Flatten(), nn.Linear(6, VECTOR))
        dim = VECTOR
    head = nn.Sequential(nn.Flatten(), nn.Linear(dim, CLASSES))
    return DEQ(
        injection,
        (CELLS | WILD)[cell](),
        head,
        Broyden(max_steps=6, tol=0) if solver is None else solver,
        tail,
        gradient,
    )


def images(batch: int = 3, seed: int = 3) -> Tensor:
    """Images of clearly different magnitude, so that their solves take different numbers of steps."""
    x = torch.randn(batch, *IMAGE, generator=torch.Generator().manual_seed(seed))
    return x * torch.logspace(-1, 0.5, batch).view(-1, 1, 1, 1)


def cross_entropy(logits: Tensor) -> Tensor:
    """The loss against the labels 0, 1, 2, 0, …, per sample: the same for each of several stacked batches of three."""
    labels = torch.arange(len(logits), device=logits.device) % CLASSES
    return nn.functional.cross_entropy(logits, labels, reduction="none")


def linear_loss(logits: Tensor) -> Tensor:
    """A loss linear in the logits, per sample."""
    return logits @ torch.tensor([1.0, -2.0, 0.5])
