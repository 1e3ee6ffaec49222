"""How a model behaves along its trajectory, and which early state is the most robust (paper, §5.2, Figs. 2a, 2b, 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from robustdeq.attacks import PGD
from robustdeq.attacks.losses import correct
from robustdeq.base.shapes import Labels, Pixels
from robustdeq.deq import DEQ
from robustdeq.deq.defenses import state_logits
from robustdeq.deq.gradients import Gradient, Surrogate
from robustdeq.deq.modes import evaluating
from robustdeq.evaluation.store import StatesOfBatch


@dataclass(frozen=True)
class StateProfile:
    """Per state z_1 … z_{N+1}, over a set of images.

    Attributes:
        accuracy: the share of images that the head classifies correctly from that state.
        residual: the mean relative residual ‖f(z) − z‖ / ‖f(z)‖.
    """

    accuracy: list[float]
    residual: list[float]

    @classmethod
    def of(cls, batches: Sequence[StatesOfBatch]) -> StateProfile:
        """The profile over the images of these batches."""
        accurate = torch.from_numpy(np.concatenate([batch.accurate for batch in batches]))
        residuals = torch.from_numpy(np.concatenate([batch.residuals for batch in batches]))
        return cls(accurate.double().mean(dim=0).tolist(), residuals.mean(dim=0).tolist())


def states_of(deq: DEQ, x: Pixels, y: Labels) -> StatesOfBatch:
    """Every state of every sample of one batch of images x with labels y."""
    logits, residuals = state_logits(deq, x)
    accurate = torch.stack([correct(state, y) for state in logits], dim=1)
    return StatesOfBatch(accurate.cpu().numpy(), residuals.T.double().cpu().numpy())


def state_profile(deq: DEQ, x: Pixels, y: Labels, batch_size: int = 128) -> StateProfile:
    """The profile of a model on images x with labels y, in batches."""
    parts = zip(x.split(batch_size), y.split(batch_size), strict=True)
    with evaluating(deq):
        return StateProfile.of([states_of(deq, images, labels) for images, labels in parts])


def choose_early_state(deq: DEQ, x: Pixels, y: Labels, attack: PGD, gradient: Gradient, batch_size: int = 128) -> int:
    """The n of the intermediate state z_1 … z_N that is most robust on a development set, the earliest of equals.

    It is chosen under the ready-made attack, once and for all (paper, §5.2).

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
        adversaries = [attack(surrogate, images, labels) for images, labels in parts]
        intermediate = state_profile(deq, torch.cat(adversaries), y, batch_size).accuracy[:-1]
    return intermediate.index(max(intermediate)) + 1
