"""A deep equilibrium model of one's own: defined, trained and attacked in every way the library knows.

The command line takes it by `build`:

    robustdeq evaluate examples/own_cell.py:build --model.solver anderson --data digits --attack.eps 0.25
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
    return rd.DEQ(
        injection=nn.Conv2d(1, width, kernel_size=3, padding=1),
        cell=Cell(width),
        head=nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16 * width, 10)),
        solver={"broyden": rd.solvers.Broyden, "anderson": rd.solvers.Anderson}[solver](max_steps=steps),
        gradient=rd.gradients.Phantom(steps=3, damping=0.5),
    )


def main(training_steps: int = 150, images: int = 50, attack_steps: int = 10) -> None:
    """Train for so many steps, then attack so many held-out digits with PGD of so many steps."""
    torch.set_num_threads(1)
    splits = rd.data.load("digits")
    deq, (x, y) = build(), splits.require("train").tensors()
    optimizer = torch.optim.Adam(deq.parameters(), lr=5e-3)
    for _ in range(training_steps):
        batch = torch.randint(len(x), (128,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(deq(x[batch]), y[batch]).backward()
        optimizer.step()

    x, y = splits.require("test").head(images).tensors()
    attack = rd.attacks.PGD(eps=0.1, step_size=0.025, steps=attack_steps)
    estimators = rd.evaluation.Estimators(steps=(1, 5), dampings=(1.0,))
    result = rd.evaluation.white_box_grid(deq, x, y, protocol="paper", attack=attack, early=3, estimators=estimators)
    print(result)


if __name__ == "__main__":
    main()
