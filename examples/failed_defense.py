"""A defense is designed, looks perfect, and is found out: PGD cannot climb a rounded image, every other attack can.

python examples/failed_defense.py
"""

import torch
from torch import Tensor, nn

import robustdeq as rd


class Rounded(nn.Module):
    """The model on an image whose pixels are rounded to eight levels."""

    def __init__(self, deq: rd.DEQ) -> None:
        super().__init__()
        self.final = rd.Defended(deq, rd.defenses.FinalState())

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        return self.final((7 * x).round() / 7)


def main(images: int = 50, steps: int = 150, effort: int = 20) -> rd.evaluation.GridResult:
    """Train a model, put the defense around it, and attack it naively and by all means."""
    torch.manual_seed(0)
    splits, deq = rd.data.load("digits"), rd.models.conv("digits", in_channels=1)
    optimizer, (x, y) = torch.optim.Adam(deq.parameters(), lr=5e-3), splits.require("train").tensors()
    for _ in range(steps):
        batch = torch.randint(len(x), (64,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(deq(x[batch]), y[batch]).backward()
        optimizer.step()

    x, y = splits.require("test").head(images).tensors()
    attack = rd.attacks.PGD(eps=0.1, step_size=0.025, steps=10)
    naive = Rounded(deq.eval()).eval()
    few = rd.evaluation.Estimators(steps=(1,), dampings=(1.0,), states=2)
    protocol = rd.evaluation.WorstCase(attack, few, steps=10, restarts=1, apgd_steps=effort, queries=5 * effort)
    defenses = {"final": rd.defenses.FinalState(), "rounded": rd.defenses.Around(Rounded)}
    result = rd.evaluation.measure(deq, x, y, protocol, defenses=defenses)
    print(result)
    left = (naive(attack(naive, x, y)).argmax(dim=1) == y).double().mean()
    print(f"PGD on the rounded model leaves {left:.0%}, and all attacks {result.worst_case[1]:.0%}.")
    return result


if __name__ == "__main__":
    main()
