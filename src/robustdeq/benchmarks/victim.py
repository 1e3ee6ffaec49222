"""A model of chosen robust accuracy: random weights, labels of its own, and the radius that leaves so many."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from robustdeq.attacks import StoppingPGD
from robustdeq.attacks.pgd import correct
from robustdeq.benchmarks.bench import Setting
from robustdeq.defenses import FinalState
from robustdeq.gradients import Defended, Surrogate, ThroughSolver
from robustdeq.models import MDEQ
from robustdeq.models.deq import evaluating

_ROUNDS = 8
ROBUST = 0.4


@dataclass(frozen=True)
class Victim:
    """A model, its images, and an attack that leaves about `ROBUST` of them standing.

    Attributes:
        deq: the model, in eval mode and with weights that need no gradient.
        x: the images.
        y: what the model sees in them.
        surrogate: the model, differentiated through the solver.
        target: the model as it is, which judges.
        attack: the attack with the radius that was found.
    """

    deq: MDEQ
    x: Float[Tensor, "count *image"]
    y: Int[Tensor, "count"]
    surrogate: Surrogate
    target: nn.Module
    attack: StoppingPGD


@contextmanager
def victim(setting: Setting, count: int, attack: StoppingPGD) -> Iterator[Victim]:
    """A model that keeps about `ROBUST` of its accuracy under an attack through the solver.

    Random weights see one class in all images; so the mean of the logits is taken out of the head. The radius of the
    attack is found by bisection of its logarithm.

    Args:
        setting: the size of the model, and where.
        count: how many images.
        attack: the attack, but for its radius.
    """
    deq = setting.model().eval()
    x, _ = setting.images(deq, count)
    with evaluating(deq), torch.no_grad():
        surrogate, target = Surrogate(deq, ThroughSolver()), Defended(deq, FinalState())
        deq.head.get_parameter("classifier.bias").sub_(target(x).mean(dim=0))
        y = target(x).argmax(dim=1)
        low, high = 1e-3, 1.0
        for _ in range(_ROUNDS):
            eps = math.sqrt(low * high)
            attack = replace(attack, eps=eps, step_size=eps / 4)
            left = correct(target(attack(surrogate, x, y, target)), y).float().mean()
            low, high = (eps, high) if left > ROBUST else (low, eps)
        yield Victim(deq, x, y, surrogate, target, attack)
