"""How a model behaves along its trajectory, and which early state is the most robust (paper, §5.2, Figs. 2a, 2b, 4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from robustdeq.attacks import PGD
from robustdeq.attacks.losses import correct
from robustdeq.deq import DEQ
from robustdeq.deq.defenses import state_logits
from robustdeq.deq.gradients import Gradient, Surrogate
from robustdeq.deq.modes import evaluating


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


def choose_early_state(
    deq: DEQ,
    x: Float[Tensor, "samples *image"],
    y: Int[Tensor, "samples"],
    attack: PGD,
    gradient: Gradient,
    batch_size: int = 128,
) -> int:
    """The intermediate state that is most robust, on a development set, under the ready-made attack (paper, §5.2).

    Args:
        deq: the model.
        x: the images of the development set.
        y: their labels.
        attack: the ready-made attack.
        gradient: the gradient it climbs, of the final state.
        batch_size: how many images are attacked at once.
    """
    with evaluating(deq):
        surrogate = Surrogate(deq, gradient)
        parts = zip(x.split(batch_size), y.split(batch_size), strict=True)
        adversaries = [attack.seeded(i)(surrogate, images, labels) for i, (images, labels) in enumerate(parts)]
        return most_robust_state(state_profile(deq, torch.cat(adversaries), y, batch_size))
