"""The attack of `evaluate`: PGD in the threat model that the weights were trained in, where nothing else is said."""

from __future__ import annotations

from dataclasses import dataclass

from robustdeq.attacks import PGD
from robustdeq.base.errors import InputError
from robustdeq.base.norms import Norm, register
from robustdeq.base.numbers import number
from robustdeq.base.threat import ThreatModel

_USUAL = ThreatModel(8 / 255)


@dataclass(frozen=True)
class Climb:
    """PGD and its threat model.

    Args:
        eps: the radius of the ball, in the units of pixels, as a number or a fraction such as 8/255; by default that of
            the weights, where they name one, else 8/255.
        step_size: how far each step goes, in the same norm; a quarter of eps by default.
        steps: how many steps.
        norm: Linf, L2, L1 or any norm; by default that of the weights, else Linf.
        random_start: start from a random point of the ball instead of the image.
        restarts: how many runs; a later one replaces the adversary of a sample that none has fooled yet.
        seed: of the random starts.
        bounds: the least and the greatest pixel; by default those of the weights, else 0 and 1.
    """

    eps: float | str | None = None
    step_size: float | str | None = None
    steps: int = 10
    norm: str | Norm | None = None
    random_start: bool = True
    restarts: int = 1
    seed: int = 0
    bounds: tuple[float, float] | None = None

    def attack(self, trained: ThreatModel | None) -> PGD:
        """The attack on weights that were trained in some threat model, or in none that is known.

        Raises:
            InputError: a setting is no number, or out of its range; or the norm is another and the radius is not given.
        """
        usual = trained or _USUAL
        eps = usual.eps if self.eps is None else number("eps", self.eps)
        step = eps / 4 or 1.0 if self.step_size is None else number("step_size", self.step_size)
        norm, bounds = self.norm or usual.norm, self.bounds or usual.bounds
        if self.eps is None and register(norm) != usual.norm:
            raise InputError(
                f"attack.norm is {register(norm)}, and the radius {usual.eps:.4g} is one in {usual.norm}; give "
                "--attack.eps too."
            )
        return PGD(eps, step, self.steps, norm, self.random_start, self.restarts, self.seed, bounds=bounds)
