"""A deep equilibrium model of one's own: defined, trained and attacked in every way the library knows."""

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


def main(training_steps: int = 150, images: int = 50, attack_steps: int = 10) -> None:
    """Train for so many steps, then attack so many held-out digits with PGD of so many steps."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    splits = rd.data.load("digits")
    x, y = splits.require("train").tensors()
    deq = rd.DEQ(
        injection=nn.Conv2d(1, 16, kernel_size=3, padding=1),
        cell=Cell(16),
        head=nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(256, 10)),
        solver=rd.solvers.Broyden(max_steps=6),
        gradient=rd.gradients.Phantom(steps=3, damping=0.5),
    )
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
    print(result.to_frame().T.round(2))


if __name__ == "__main__":
    main()
