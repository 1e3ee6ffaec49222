"""Randomized smoothing: L2 radii of the classifier that takes a vote among noisy copies of an image.

With noise N(0, σ² I), a class that wins with a probability of at least p keeps winning within σ Φ⁻¹(p) of the image
(Cohen, Rosenfeld and Kolter, "Certified adversarial robustness via randomized smoothing", ICML 2019, Theorem 1 and
CERTIFY). p is bounded from below by Clopper and Pearson, from draws other than those that chose the class.

It holds for any classifier whose answer depends on its image alone. So every copy is solved from the model's own z_0:
a solve that began at the state of another copy would make its answer depend on that copy, and the vote no vote.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from robustdeq.base.errors import check_counts, check_seed, require
from robustdeq.base.norms import L2
from robustdeq.base.progress import Report
from robustdeq.base.shapes import Pixels
from robustdeq.base.statistics import least_proportion
from robustdeq.certificates.certificate import Certificate, Radii


@dataclass(frozen=True)
class Smoothing(Certificate):
    """L2 radii of any classifier, smoothed by Gaussian noise.

    Args:
        sigma: σ, the standard deviation of the noise, in the units of pixels.
        selection: draws that choose the class.
        estimation: draws that bound its probability.
        risk: the probability, at most, that the radius of an image is wrong.
        draws: how many copies are classified at once.
        seed: of the noise; the i-th image draws numbers of its own.

    Raises:
        InputError: a setting is out of its range.
    """

    sigma: float = 0.25
    selection: int = 100
    estimation: int = 10_000
    risk: float = 0.001
    draws: int = 500
    seed: int = 0

    title = "randomized smoothing"
    covers = "the vote among noisy copies, not the model itself"
    norm = L2()
    of_model = False

    def __post_init__(self) -> None:
        check_counts(selection=self.selection, estimation=self.estimation, draws=self.draws)
        require(self.sigma > 0, f"sigma is {self.sigma}; give a positive standard deviation.")
        check_seed(self.seed)
        require(0 < self.risk < 1, f"risk is {self.risk}; give a probability between 0 and 1.")

    @override
    def radii(self, model: nn.Module, x: Sequence[Pixels], report: Report) -> list[Radii]:
        found, total = [], sum(map(len, x))
        for i, image in enumerate(torch.cat([*x])):
            report(i / total, "voting")
            seed = int(np.random.SeedSequence((self.seed, i)).generate_state(1)[0])
            found.append(self._radius(model, image, torch.Generator(image.device).manual_seed(seed)))
        predicted, radius = (torch.tensor(values) for values in zip(*found, strict=True))
        return [Radii(predicted, radius, radius)]

    def _radius(self, model: nn.Module, image: Tensor, generator: torch.Generator) -> tuple[int, float]:
        """The class of an image, or −1, and its radius."""
        winner = int(self._votes(model, image, self.selection, generator).argmax())
        votes = int(self._votes(model, image, self.estimation, generator)[winner])
        probability = least_proportion(votes, self.estimation, self.risk)
        return (winner, self.sigma * NormalDist().inv_cdf(probability)) if probability > 0.5 else (-1, 0.0)

    def _votes(self, model: nn.Module, image: Tensor, copies: int, generator: torch.Generator) -> Tensor:
        """How often each class wins among noisy copies; a copy whose logits are not finite is a vote for no class."""
        counted = torch.zeros(0)
        for start in range(0, copies, self.draws):
            size = (min(self.draws, copies - start), *image.shape)
            noise = torch.randn(size, generator=generator, dtype=image.dtype, device=image.device)
            logits = model(image + self.sigma * noise)
            valid = logits.isfinite().all(dim=1)
            votes = logits[valid].argmax(dim=1).bincount(minlength=logits.shape[1]).cpu()
            counted = votes + counted if len(counted) else votes
        return counted
