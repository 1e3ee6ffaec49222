"""A reversible solve of a trained DEQ: its gradient, undone step by step, beside those that keep states.

    python examples/reversible.py                # conv-small-unrolled, β = 0.3, 8 images of noise
    python examples/reversible.py 0.5

Shown for each number of steps: how far the undone gradient is from the one through the solver, and the peak memory of
both and of the latter with f checkpointed.
"""

import sys
from functools import partial

import torch

import robustdeq as rd
from robustdeq.attacks.losses import cross_entropy
from robustdeq.base.errors import InputError
from robustdeq.gradients import Reversed, ThroughSolver
from robustdeq.study.stopwatch import peak_bytes


def compared(damping: float, steps: int, images: int = 8) -> tuple[float, list[float]]:
    """The relative error of the undone gradient, and the MiB of undone, checkpointed and kept."""
    deq = rd.models.reversible(rd.load("conv-small-unrolled"), steps, damping)
    x = torch.rand(images, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    loss = partial(cross_entropy, y=torch.arange(images) % 10)
    gradients = Reversed(), ThroughSolver(checkpoint=True), ThroughSolver()
    found, true, _ = (gradient.input_gradient(deq, x, loss) for gradient in gradients)
    peaks = [peak_bytes(partial(gradient.input_gradient, deq, x, loss)) / 2**20 for gradient in gradients]
    return float((found - true).norm() / true.norm()), peaks


if __name__ == "__main__":
    damping = float(sys.argv[1]) if len(sys.argv) > 1 else 0.3
    for steps in (4, 8, 16, 32):
        try:
            error, (undone, checkpointed, kept) = compared(damping, steps)
        except InputError as refused:
            print(f"{steps} steps: {refused}")
            continue
        print(f"{steps} steps: error {error:.0e}; {undone:.0f} MiB, checkpointed {checkpointed:.0f}, kept {kept:.0f}")
