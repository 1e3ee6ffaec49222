"""Probes: what the first images tell of whether the attacks could have found what there is.

Each looks at one defense and its images, and turns the numbers of all into a verdict. After Athalye, Carlini and Wagner
(ICML 2018, §3.1) and Pintor et al. ("Indicators of attack failure", NeurIPS 2022).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from robustdeq.attacks import PGD, Judged
from robustdeq.attacks.ascent import generators
from robustdeq.attacks.losses import correct, margin
from robustdeq.attacks.pgd import input_gradient
from robustdeq.attacks.stopping import differentiated
from robustdeq.base.shapes import Labels, Logits, PerSample, Pixels
from robustdeq.evaluation.column import Row
from robustdeq.evaluation.diagnostics import Check, CheckVerdict

Found = Mapping[str, Mapping[str, Float[np.ndarray, "images"]]]
"""What a probe found: by defense and by name, a number for each image."""

_ROUNDING = 0.01
"""How much of the spread of its logits an image may change by, and it still is rounding."""
_DRAWS = 4
"""How many ways of moving pixels without gradient are tried."""
_FELL, _LATE = 0.1, 0.2
_LAST = "share of the rise in the last quarter"
"""On what share of the images PGD may lower the loss, and what share of its rise its last quarter may make."""


@dataclass(frozen=True)
class Probe(ABC):
    """Something to look at on the first images, behind each defense.

    Args:
        attack: the attack of the protocol.
    """

    name: ClassVar[str]
    first_row_alone: ClassVar[bool] = False
    """Whether it says the same behind every defense."""

    attack: PGD

    @abstractmethod
    def look(self, row: Row, x: Pixels, y: Labels) -> dict[str, PerSample]:
        """The numbers of some images x with labels y behind one defense, by name."""

    @classmethod
    @abstractmethod
    def check(cls, found: Found) -> Check:
        """What the numbers of all probed images mean."""


class Company(Probe):
    """Whether the logits of an image depend on chance, or on the images beside it."""

    name: ClassVar[str] = "logits depend on chance or on the batch"

    @override
    @torch.no_grad()
    def look(self, row: Row, x: Pixels, y: Labels) -> dict[str, PerSample]:
        logits, (low, high) = row.judge(x), self.attack.threat.box(x)
        hostile = torch.where(x > (low + high) / 2, low, high)
        return {
            "asked again": _change(logits, row.judge(x)),
            "alone": _change(logits, torch.cat([row.judge(image[None]) for image in x])),
            "beside hostile images": _change(logits, row.judge(torch.cat([hostile, x]))[len(x) :]),
        }

    @classmethod
    @override
    def check(cls, found: Found) -> Check:
        numbers = {row: {name: float(values.max()) for name, values in its.items()} for row, its in found.items()}
        row, name = max(((row, name) for row in numbers for name in numbers[row]), key=lambda at: numbers[at[0]][at[1]])
        most = numbers[row][name]
        if most > _ROUNDING:
            share = (found[row][name] > _ROUNDING).mean()
            ill = (
                f"Logits change by up to {most:.0%} of their spread when {name}, on {share:.0%} of {_count(found)} "
                f"images (on {row}): what an attack found need not hold, and other company may break an image."
            )
            return Check(cls.name, CheckVerdict.FAILED, ill, numbers)
        well = f"Logits change by at most {most:.2%} of their spread when asked again, alone or beside hostile images."
        return Check(cls.name, CheckVerdict.PASSED, well, numbers)


class Masking(Probe):
    """Whether pixels that have no gradient move the logits all the same."""

    name: ClassVar[str] = "gradients masked in part"

    @override
    def look(self, row: Row, x: Pixels, y: Labels) -> dict[str, PerSample]:
        threat, surrogate = self.attack.threat, row.surrogates[0].module
        still = input_gradient(surrogate, x, partial(margin, y=y)) == 0
        with torch.no_grad():
            logits = row.judge(x)
            change = logits.new_zeros(len(x))
            draws = generators(x, self.attack.seed)
            for _ in range(_DRAWS):
                noise = torch.cat([threat.measure.uniform(x[i : i + 1], draw) for i, draw in enumerate(draws)])
                moved = threat.project(x + still * noise.sign() * threat.eps, x)
                change = torch.maximum(change, _change(logits, row.judge(moved)))
        return {
            "pixels without gradient": still.flatten(1).to(change.dtype).mean(dim=1),
            "change when they move": change,
        }

    @classmethod
    @override
    def check(cls, found: Found) -> Check:
        masked = {
            row: (its["pixels without gradient"] > _ROUNDING) & (its["change when they move"] > _ROUNDING)
            for row, its in found.items()
        }
        numbers = {
            row: {
                "pixels without gradient": float(its["pixels without gradient"].mean()),
                "images that these pixels change": float(masked[row].mean()),
            }
            for row, its in found.items()
        }
        failed = [row for row, images in masked.items() if images.any()]
        most = max(float(images.mean()) for images in masked.values())
        ill = (
            f"On up to {most:.0%} of {_count(found)} images, pixels that have no gradient change the logits when they "
            f"move (on {', '.join(failed)}): attacks that climb the gradient do not see them."
        )
        well = f"On none of {_count(found)} images does a pixel without gradient change the logits."
        verdict = CheckVerdict.FAILED if failed else CheckVerdict.PASSED
        return Check(cls.name, verdict, ill if failed else well, numbers)


class Trace(Probe):
    """How the loss fares along PGD through the solver."""

    name: ClassVar[str] = "the loss does not rise, or not yet"

    @override
    def look(self, row: Row, x: Pixels, y: Labels) -> dict[str, PerSample]:
        judged, attack = Judged(row.surrogates[0].module, row.judge), self.attack
        draws = generators(x, attack.seed)
        point = torch.cat([attack.start(x[i : i + 1], draw) for i, draw in enumerate(draws)])
        course = []
        for _ in range(attack.steps):
            _, losses, gradient = differentiated(judged, point, lambda logits: attack.loss(logits, y))
            course.append(losses)
            point = attack.step(point, gradient, x)
        with torch.no_grad():
            course.append(attack.loss(judged(point), y))
        trace = torch.stack(course)
        gain = (trace[-1] - trace[0]).clamp_min(0)
        quarter = attack.steps // 4
        late = torch.where(gain > 0, (trace[-1] - trace[-1 - quarter]) / gain, 0).clamp(0, 1)
        seen = {
            "rise": (trace[-1] > trace[0]).to(trace.dtype),
            "steps that lower it": (trace[1:] < trace[:-1]).to(trace.dtype).mean(dim=0),
        }
        return seen | ({_LAST: late} if quarter else {})

    @classmethod
    @override
    def check(cls, found: Found) -> Check:
        numbers = _means(found)
        lowest = min(numbers, key=lambda row: numbers[row]["rise"])
        fell, lasts = 1 - numbers[lowest]["rise"], {row: its[_LAST] for row, its in numbers.items() if _LAST in its}
        late = max(lasts.values(), default=0.0)
        if fell > _FELL:
            ill = f"PGD does not raise the loss on {fell:.0%} of {_count(found)} images, on {lowest}."
            return Check(cls.name, CheckVerdict.FAILED, ill, numbers)
        if late > _LATE:
            latest = max(lasts, key=lambda row: lasts[row])
            ill = f"The last quarter of PGD's steps makes {late:.0%} of the rise of the loss, on {latest}: take more."
            return Check(cls.name, CheckVerdict.FAILED, ill, numbers)
        well = f"PGD raises the loss on {1 - fell:.0%} of {_count(found)} images, on {lowest}"
        course = f"; the last quarter of its steps makes at most {late:.0%} of the rise." if lasts else "."
        return Check(cls.name, CheckVerdict.PASSED, well + course, numbers)


class SelfTest(Probe):
    """Whether the attack breaks a planted model that can be broken, and leaves a constant one alone."""

    name: ClassVar[str] = "self-test"
    first_row_alone: ClassVar[bool] = True

    @override
    def look(self, row: Row, x: Pixels, y: Labels) -> dict[str, PerSample]:
        with torch.no_grad():
            classes = row.judge(x[:1]).shape[1]
        planted = [self._falls(Planted(image[None], self.attack, classes), image[None]) for image in x]
        return {"planted model falls": torch.cat(planted), "constant model falls": self._falls(Constant(classes), x)}

    def _falls(self, model: nn.Module, x: Pixels) -> PerSample:
        first = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        with torch.no_grad():
            return (~correct(model(self.attack(model.eval(), x, first)), first)).to(x.dtype)

    @classmethod
    @override
    def check(cls, found: Found) -> Check:
        numbers = _means(found)
        ((breakable, constant),) = (its.values() for its in numbers.values())
        said = (
            f"The attack breaks {breakable:.0%} of {_count(found)} models planted to fall near the middle of the ball, "
            f"and {constant:.0%} of as many images of a constant one."
        )
        fit = breakable == 1 and constant == 0
        return Check(cls.name, CheckVerdict.PASSED if fit else CheckVerdict.FAILED, said, numbers)


class Planted(nn.Module):
    """A model that one image leaves for its second class within a tenth of the ball around it, along one direction.

    Args:
        x: the image, (1, ...).
        attack: whose ball it is.
        classes: how many logits, two at least; those beyond the second are never the greatest.
    """

    def __init__(self, x: Pixels, attack: PGD, classes: int = 2) -> None:
        super().__init__()
        self.classes = classes
        threat = attack.threat
        signs = 1.0 - 2 * (torch.arange(x.numel(), device=x.device) % 2).to(x).view_as(x)
        farthest = threat.project(x + threat.eps * threat.steepest(signs, x), x)
        reach = ((farthest - x) * signs).sum()
        self.image, self.direction, self.margin = x, signs, torch.where(reach > 0, reach / 10, -1)

    def forward(self, x: Pixels) -> Logits:
        """The first class until the image has moved far enough."""
        height = ((x - self.image) * self.direction).flatten(1).sum(dim=1)
        return _padded(torch.stack([self.margin - height, torch.zeros_like(height)], dim=1), self.classes)


class Constant(nn.Module):
    """A model that always says the first of its classes; its gradient is zero.

    Args:
        classes: how many logits, two at least.
    """

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, x: Pixels) -> Logits:
        """The same for every image."""
        still = 0 * x.flatten(1).sum(dim=1)
        return _padded(torch.stack([1 + still, still], dim=1), self.classes)


def _padded(logits: Float[Tensor, "batch fewer"], classes: int) -> Logits:
    """Logits with more beside them, of classes that never win."""
    return nn.functional.pad(logits, (0, max(0, classes - logits.shape[1])), value=-1.0)


def _change(before: Logits, after: Tensor) -> PerSample:
    """By how much of the spread of its logits each image changed, 1 at most, and 1 where only one of both is finite."""
    spread = (before.amax(dim=1) - before.amin(dim=1)).clamp_min(torch.finfo(before.dtype).tiny)
    change = ((after - before).abs().amax(dim=1) / spread).nan_to_num(1.0).clamp_max(1.0)
    lost = [~logits.isfinite().all(dim=1) for logits in (before, after)]
    return torch.where(lost[0] & lost[1], 0, torch.where(lost[0] ^ lost[1], 1, change))


def _means(found: Found) -> dict[str, dict[str, float]]:
    return {row: {name: float(values.mean()) for name, values in its.items()} for row, its in found.items()}


def _count(found: Found) -> int:
    return len(next(iter(next(iter(found.values())).values())))


PROBES: dict[str, type[Probe]] = {probe.name: probe for probe in (SelfTest, Company, Masking, Trace)}
"""All probes, in the order in which a reader wants them."""
