"""Training for certificates: the loss at the logits that no image within ε can fall behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn
from torch.nn.functional import cross_entropy
from typing_extensions import override

from robustdeq.base.errors import require
from robustdeq.base.norms import L2
from robustdeq.base.shapes import Labels, Pixels
from robustdeq.base.threat import ThreatModel
from robustdeq.certificates import logit_slopes
from robustdeq.training.learner import Adversaries, learner
from robustdeq.training.objectives import Moment, Objective, Reading


@dataclass(frozen=True)
class LipschitzMargin(Objective):
    """Lipschitz-margin training of a monotone DEQ (Tsuzuku, Sato and Sugiyama, NeurIPS 2018).

    The cross-entropy of clean images after every wrong logit was raised by the most that an image within ε could gain
    on the right one, so that margins grow faster than slopes; the best weights are those that resist PGD in L2.

    Args:
        eps: ε, an L2 radius in units of pixels in [0, 1].
        warmup: the share of the training over which the radius grows linearly from 0 to ε.

    Raises:
        InputError: a setting is out of its range.
    """

    aim: ClassVar[str] = "robust"

    eps: float = 0.25
    warmup: float = 0.3

    def __post_init__(self) -> None:
        require(self.eps > 0, f"eps is {self.eps}; give a positive radius.")
        require(0 <= self.warmup <= 1, f"warmup is {self.warmup}; give a share of the training, in [0, 1].")

    @property
    @override
    def threat(self) -> ThreatModel:
        return ThreatModel(self.eps, L2())

    @override
    def read(self, model: nn.Module, x: Pixels, y: Labels, found: Adversaries, moment: Moment) -> Reading:
        logits, solution = learner(model).respond(found)
        eps = self.eps * min(moment.progress / self.warmup, 1.0) if self.warmup else self.eps
        return Reading(cross_entropy(logits + eps * logit_slopes(model)[y], y), logits, solution)
