"""A model of chosen robust accuracy: random weights, labels of its own, and the radius that leaves so many."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import interpolate

from robustdeq.attacks import StoppingPGD
from robustdeq.attacks.losses import correct
from robustdeq.deq import Defended
from robustdeq.deq.defenses import FinalState
from robustdeq.deq.gradients import Surrogate, ThroughSolver
from robustdeq.deq.modes import evaluating
from robustdeq.study.bench.benchmark import Setting
from robustdeq.zoo import MDEQ

_ROUNDS, _CLOSE, _COARSE = 12, 0.06, 4
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

    Random weights see one class in all images, and noise is alike to them; so the mean of the logits is taken out of
    the head, and the images are smooth ones. The radius of the attack is found by bisection of its logarithm.

    Args:
        setting: the size of the model, and where.
        count: how many images.
        attack: the attack, but for its radius.
    """
    deq = setting.model().eval()
    channels, height, width = deq.image_shape
    coarse = torch.rand(count, channels, _COARSE, _COARSE, generator=torch.Generator().manual_seed(0))
    x = interpolate(coarse, size=(height, width), mode="bilinear").to(setting.device)
    with evaluating(deq), torch.no_grad():
        surrogate, target = Surrogate(deq, ThroughSolver()), Defended(deq, FinalState())
        deq.head.get_parameter("classifier.bias").sub_(target(x).mean(dim=0))
        y = target(x).argmax(dim=1)
        low, high, shares = 1e-6, 1.0, {}
        while len(shares) < _ROUNDS and all(abs(share - ROBUST) > _CLOSE for share in shares.values()):
            eps = math.sqrt(low * high)
            tried = replace(attack, eps=eps, step_size=eps / 4)
            shares[tried] = correct(target(tried(surrogate, x, y, target)), y).float().mean().item()
            low, high = (eps, high) if shares[tried] > ROBUST else (low, eps)
        closest = min(shares, key=lambda tried: abs(shares[tried] - ROBUST))
        yield Victim(deq, x, y, surrogate, target, closest)
