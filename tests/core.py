"""What the package does as it is installed without extras: run it wherever that is, on no file of the repository."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import robustdeq as rd


class Cell(nn.Module):
    """tanh(W z + u), W small."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Linear(width, width)

    def forward(self, z: Tensor, u: Tensor) -> Tensor:
        return torch.tanh(0.5 * self.mix(z) + u)


def model() -> rd.DEQ:
    torch.manual_seed(0)
    return rd.DEQ(
        injection=nn.Linear(4, 8),
        cell=Cell(8),
        head=nn.Linear(8, 3),
        solver=rd.solvers.Broyden(max_steps=6),
        gradient=rd.gradients.Exact(),
    )


def main() -> None:
    deq = model()
    x = torch.rand(6, 4)
    nn.functional.cross_entropy(deq(x), torch.arange(6) % 3).backward()
    assert all(parameter.grad is not None for parameter in deq.parameters())

    y = deq.eval()(x).argmax(dim=1)
    surrogate = rd.Surrogate(deq, rd.gradients.ThroughSolver(rd.defenses.FinalState()))
    for attack in (rd.attacks.PGD(eps=0.3, step_size=0.1, steps=3), rd.attacks.MomentumPGD(eps=0.3, steps=3)):
        adversaries = attack(surrogate, x, y)
        assert 0 < (adversaries - x).abs().max() <= 0.3 + 1e-6

    searched = rd.evaluation.Estimators(steps=(1,), dampings=(1.0,), states=1)
    paper = rd.evaluation.Paper(rd.attacks.PGD(eps=0.3, step_size=0.1, steps=3), searched)
    result = rd.evaluation.measure(deq, x, y, paper, early=2)
    assert result.clean[0].all()
    print(result)

    with tempfile.TemporaryDirectory() as folder:
        conv = rd.models.conv("digits", in_channels=1).eval()
        rd.save(conv, f"{folder}/model.safetensors")
        images = torch.rand(2, 1, 8, 8)
        assert torch.equal(rd.load(f"{folder}/model.safetensors")(images), conv(images))
        file = Path(folder) / "test.npz"
        np.savez(file, x_test=np.zeros((4, 8, 8), np.uint8), y_test=np.arange(4))
        assert len(rd.data.load(file).require("test")) == 4
    monotone = rd.load("monotone-digits-dense")
    certified = rd.certificates.Lipschitz().certify(monotone, images, monotone(images).argmax(dim=1))
    assert (certified.radius > 0).all()


if __name__ == "__main__":
    main()
