"""A model built with TorchDEQ and trained by it, attacked: as is usual, and by all means through the solver it runs.

python examples/attack_torchdeq.py
"""

import torch
from torch import nn
from torchdeq import get_deq
from torchdeq_model import Classifier

import robustdeq as rd


def trained(x: torch.Tensor, y: torch.Tensor, steps: int) -> nn.Module:
    """The classifier of `torchdeq_model.py` with Broyden's method, after so many steps of TorchDEQ's own gradient."""
    torch.manual_seed(0)
    model = Classifier(width=32)
    model.deq = get_deq(f_solver="broyden", f_max_iter=6, f_tol=1e-3, f_stop_mode="rel")
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(steps):
        batch = torch.randint(len(x), (128,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
    return model


def main(steps: int = 150, images: int = 100) -> rd.evaluation.GridResult:
    """Train for so many steps, then attack so many held-out digits."""
    splits = rd.data.load("digits")
    model = trained(*splits.require("train").tensors(), steps)
    x, y = splits.require("test").head(images).tensors()
    deq = rd.from_torchdeq(model, example=x[:1])
    attack = rd.attacks.PGD(eps=0.1, step_size=0.025, steps=10)
    few = rd.evaluation.Estimators(steps=(1,), dampings=(1.0,), states=2)
    protocol = rd.evaluation.WorstCase(attack, few, steps=10, restarts=1, apgd_steps=20, queries=100)
    result = rd.evaluation.measure(deq, x, y, protocol, defenses={"final": rd.defenses.FinalState()})
    print(result)
    usual = result.accuracy[0, result.ready_made.index(True)]
    residual = deq.solve(x).residuals.amin(dim=0).mean()
    print(f"Its solve ends {residual:.2g} from the fixed point, relatively.")
    print(f"The ready-made attack leaves {usual:.0%}, and all attacks {result.worst_case[0]:.0%}.")
    return result


if __name__ == "__main__":
    main()
