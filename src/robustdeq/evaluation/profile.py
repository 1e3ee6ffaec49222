"""How a model behaves along its trajectory: accuracy and residual of every state (paper, Figs. 2a, 2b and 4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from robustdeq.attacks.losses import correct
from robustdeq.deq import DEQ
from robustdeq.deq.defenses import state_logits


@dataclass(frozen=True)
class StateProfile:
    """Per state z_1 … z_{N+1}, over a set of images.

    Attributes:
        accuracy: the share of images that the head classifies correctly from that state.
        residual: the mean relative residual ‖f(z) − z‖ / ‖f(z)‖.
    """

    accuracy: list[float]
    residual: list[float]


def state_profile(
    deq: DEQ, x: Float[Tensor, "samples *image"], y: Int[Tensor, "samples"], batch_size: int = 128
) -> StateProfile:
    """The profile of a model on images x with labels y, in batches."""
    hits, residuals = [], []
    for images, labels in zip(x.split(batch_size), y.split(batch_size), strict=True):
        logits, residual = state_logits(deq, images)
        hits.append(torch.stack([correct(state, labels) for state in logits], dim=1))
        residuals.append(residual.T)
    accuracy = torch.cat(hits).double().mean(dim=0)
    residual = torch.cat(residuals).double().mean(dim=0)
    return StateProfile(accuracy.tolist(), residual.tolist())


def most_robust_state(profile: StateProfile) -> int:
    """The n of the intermediate state z_1 … z_N with the highest accuracy, the earliest of equals (paper, §5.2)."""
    intermediate = profile.accuracy[:-1]
    return intermediate.index(max(intermediate)) + 1
