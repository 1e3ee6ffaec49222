"""A deep equilibrium model of measurements instead of images: 30 features of a tumour, benign or malignant.

Its inputs are standardised and lie in [−10, 10]; an adversary may move each by a quarter of its standard deviation.

    robustdeq evaluate examples/tabular.py:build --data examples/tabular.py:data --attack.bounds [-10,10]
"""

from typing import Any

import torch
from sklearn.datasets import load_breast_cancer
from torch import Tensor, nn

import robustdeq as rd


class Cell(nn.Module):
    """F(z; u) = tanh(W z + u)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Linear(width, width)

    def forward(self, z: Tensor, u: Tensor) -> Tensor:
        """The next state."""
        return torch.tanh(self.mix(z) + u)


def build(features: int = 30, classes: int = 2, width: int = 32) -> rd.DEQ:
    """The model with fresh weights."""
    torch.manual_seed(0)
    return rd.DEQ(nn.Linear(features, width), Cell(width), nn.Linear(width, classes), rd.solvers.Anderson(max_steps=8))


def data() -> dict[str, Tensor]:
    """Standardised features and labels, every fourth sample for testing."""
    x, y = map(torch.tensor, load_breast_cancer(return_X_y=True))
    test = torch.arange(len(x)) % 4 == 0
    x = ((x - x[~test].mean(0)) / x[~test].std(0)).clamp(-10, 10).float()
    return {"x_train": x[~test], "y_train": y[~test], "x_test": x[test], "y_test": y[test]}


def main(training_steps: int = 200, samples: int = 142, **effort: Any) -> rd.evaluation.GridResult:
    """Train for so many steps, then attack so many samples by the strict protocol, with such an effort."""
    deq, parts = build(), data()
    optimizer = torch.optim.Adam(deq.parameters(), lr=5e-3)
    for _ in range(training_steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(deq(parts["x_train"]), parts["y_train"]).backward()
        optimizer.step()
    x, y = parts["x_test"][:samples], parts["y_test"][:samples]
    strict = rd.evaluation.Strict(rd.attacks.PGD(0.25, 0.05, bounds=(-10.0, 10.0)), **effort)
    result = rd.evaluation.measure(deq, x, y, strict, early=3)
    print(result)
    return result


if __name__ == "__main__":
    main()
