"""Checks that the attacks were fit to find what there is: signs of obfuscated gradients.

After Athalye, Carlini and Wagner ("Obfuscated Gradients Give a False Sense of Security", ICML 2018, §3.1) and Carlini
et al. ("On Evaluating Adversarial Robustness", 2019): an attack that fails one of these proves nothing about a defense.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np
from jaxtyping import Bool
from scipy.stats import binomtest

from robustdeq.base.plain import made_of

LEVEL = 0.05


class CheckVerdict(StrEnum):
    """What became of a check."""

    PASSED = "passed"
    FAILED = "failed"
    TOO_FEW = "too few images to tell"


@dataclass(frozen=True)
class Check:
    """One check, its verdict and the numbers behind it.

    Attributes:
        name: what is checked.
        verdict: whether something speaks against the attacks; too few where nothing could have.
        sentence: what was found, in words and with the numbers that decide.
        numbers: all that it rests on, per defense.
    """

    name: str
    verdict: CheckVerdict
    sentence: str
    numbers: dict[str, dict[str, float]]

    @property
    def passed(self) -> bool:
        """Whether it could have failed and did not."""
        return self.verdict is CheckVerdict.PASSED

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Check:
        """The check that was written down, by earlier versions as passed or not."""
        earlier = CheckVerdict.PASSED if values.get("passed") else CheckVerdict.FAILED
        verdict = CheckVerdict(values.get("verdict", earlier))
        return made_of(cls, {name: values[name] for name in ("name", "sentence", "numbers")}, verdict=verdict)


Standing = Mapping[str, Bool[np.ndarray, "_"]]
"""For each defense, by name, which images stand; those that were attacked, from the first."""


@dataclass(frozen=True)
class Evidence:
    """What some attacks found, each against one defense and judged there; empty where an attack was not made.

    Attributes:
        single: standing under one run of PGD through the solver.
        restarted: standing under PGD with more steps and restarts.
        one_step: standing under a single step.
        moved: whether that single step changed the image.
        unbounded: standing under PGD that may change every pixel at will.
        before_queries: standing when all gradient-based attacks had been made.
        after_queries: standing after Square.
        ready_made: standing under the ready-made attack, in the rows that read the final state, as it does.
        errors: how many images had logits that were not finite.
        straight: standing under one run of PGD straight through the operations without a derivative.
        operations: these operations; for each defense where they were looked for, none or more.
        unwatched: why they could not be looked for.
        eps: the radius of the ball.
    """

    single: Standing = field(default_factory=dict)
    restarted: Standing = field(default_factory=dict)
    one_step: Standing = field(default_factory=dict)
    moved: Standing = field(default_factory=dict)
    unbounded: Standing = field(default_factory=dict)
    before_queries: Standing = field(default_factory=dict)
    after_queries: Standing = field(default_factory=dict)
    ready_made: Standing = field(default_factory=dict)
    errors: Mapping[str, int] = field(default_factory=dict)
    straight: Standing = field(default_factory=dict)
    operations: Mapping[str, Sequence[str]] = field(default_factory=dict)
    unwatched: Mapping[str, str] = field(default_factory=dict)
    eps: float = math.inf


def checks(evidence: Evidence) -> tuple[Check, ...]:
    """All checks that the evidence allows, in the order in which a reader wants them."""
    made = (
        zero_gradients(evidence),
        without_derivative(evidence),
        one_step_beats_many(evidence),
        more_steps(evidence),
        unbounded(evidence),
        black_box_beats_white_box(evidence),
        misalignment(evidence),
        not_finite(evidence),
    )
    return tuple(check for check in made if check.numbers)


def zero_gradients(evidence: Evidence) -> Check:
    """Gradients that vanish cannot be climbed."""
    name = "zero gradients"
    numbers = {row: {"share with zero gradient": float(1 - moved.mean())} for row, moved in evidence.moved.items()}
    if evidence.eps == 0:
        return Check(name, CheckVerdict.TOO_FEW, "With ε = 0 no step moves an image, whatever its gradient.", numbers)
    failed, worst, images = *_above_zero(numbers), _images(evidence.moved)
    well = f"None of {images} images has a zero gradient."
    ill = f"Up to {worst:.1%} of {images} images have a zero gradient: attacks that climb it say nothing about those."
    return Check(name, _verdict(failed), ill if failed else well, numbers)


def without_derivative(evidence: Evidence) -> Check:
    """Operations without a useful derivative must not keep an attack from what it finds straight through them."""
    name = "operations without a derivative"
    numbers = {row: {"operations": float(len(found))} for row, found in evidence.operations.items()}
    named = ", ".join(dict.fromkeys(operation for found in evidence.operations.values() for operation in found))
    why = next((reason for reason in evidence.unwatched.values() if reason), "")
    if why:
        return Check(
            name, CheckVerdict.FAILED, f"Operations without a derivative could not be looked for: {why}", numbers
        )
    if not named:
        well = "On the one image that was watched, every operation has a derivative."
        return Check(name, CheckVerdict.PASSED, well, numbers)
    found = _comparison(
        name,
        ("straight through it", evidence.straight),
        ("the model's own gradient", evidence.single),
        "the gradient does not see what it hides",
    )
    if not found.numbers:
        return Check(
            name, CheckVerdict.FAILED, f"No useful derivative: {named}; no attack went straight through.", numbers
        )
    return replace(found, sentence=f"No useful derivative: {named}. {found.sentence}")


def one_step_beats_many(evidence: Evidence) -> Check:
    """A single step that does better than many steps shows that these lost their way."""
    return _comparison(
        "one step beats many",
        ("one step", evidence.one_step),
        ("many steps", evidence.single),
        "many steps lose their way",
    )


def more_steps(evidence: Evidence) -> Check:
    """More steps and restarts must not do worse."""
    return _comparison(
        "more steps do not help",
        ("one run", evidence.single),
        ("more steps and restarts", evidence.restarted),
        "the gradient is not a direction of ascent",
    )


def unbounded(evidence: Evidence) -> Check:
    """An attack that may draw any image at all must succeed on every one."""
    numbers = {row: {"standing at unbounded ε": float(stands.mean())} for row, stands in evidence.unbounded.items()}
    failed, worst, images = *_above_zero(numbers), _images(evidence.unbounded)
    well = f"An attack without bound leaves none of {images} images standing."
    ill = (
        f"An attack without bound misses up to {worst:.1%} of {images} images, on {', '.join(failed)}: all can be "
        "broken."
    )
    return Check("unbounded attack", _verdict(failed), ill if failed else well, numbers)


def black_box_beats_white_box(evidence: Evidence) -> Check:
    """Square, which sees only logits, must not break what all gradients left standing."""
    sides = {row: (evidence.before_queries[row], after) for row, after in evidence.after_queries.items()}
    numbers = {
        row: {"standing before Square": float(before.mean()), "standing after Square": float(after.mean())}
        for row, (before, after) in sides.items()
    }
    left = {row: int(before.sum()) for row, (before, _) in sides.items()}
    broken = {row: left[row] - int(after.sum()) for row, (_, after) in sides.items()}
    failed, name = [row for row, images in broken.items() if images], "black box beats white box"
    if failed:
        found = ", ".join(f"{broken[row]} of {left[row]} on {row}" for row in failed)
        ill = f"Square breaks images that every attack with gradients left standing ({found}): these hide something."
        return Check(name, CheckVerdict.FAILED, ill, numbers)
    if not any(left.values()):
        return Check(name, CheckVerdict.TOO_FEW, "The attacks with gradients left no image to Square.", numbers)
    well = f"Square breaks none of the {max(left.values())} images that the attacks with gradients left standing."
    return Check(name, CheckVerdict.PASSED, well, numbers)


def misalignment(evidence: Evidence) -> Check:
    """How far the ready-made attack overrates the final state, against the gradient of what is computed (paper, §3)."""
    row = [name for name in evidence.single if name in evidence.ready_made][:1]
    return _comparison(
        "forward and backward pass misaligned",
        ("through the solver", {name: evidence.single[name] for name in row}),
        ("the ready-made attack", evidence.ready_made),
        "the ready-made gradient is misaligned",
    )


def not_finite(evidence: Evidence) -> Check:
    """Logits that are not finite are errors of the defense."""
    numbers = {row: {"images": float(count)} for row, count in evidence.errors.items()}
    failed, most = _above_zero(numbers)
    ill = f"Up to {most:.0f} images have logits that are not finite, on {', '.join(failed)}; they count as errors."
    return Check("logits that are not finite", _verdict(failed), ill if failed else "All logits are finite.", numbers)


def _verdict(failed: list[str]) -> CheckVerdict:
    return CheckVerdict.FAILED if failed else CheckVerdict.PASSED


def _images(standing: Standing) -> int:
    return max((len(stands) for stands in standing.values()), default=0)


def _above_zero(numbers: dict[str, dict[str, float]]) -> tuple[list[str], float]:
    """The rows whose single number is above zero, and the largest of these numbers."""
    values = {row: value for row, number in numbers.items() for value in number.values()}
    return [row for row, value in values.items() if value > 0], max(values.values(), default=0.0)


def _comparison(name: str, weak: tuple[str, Standing], strong: tuple[str, Standing], ill: str) -> Check:
    """Whether an attack that should not be the stronger one is, beyond chance, on the images that both were made on.

    Args:
        name: of the check.
        weak: the attack that should not, and what it leaves standing, by defense.
        strong: the other; only what it leaves standing can speak against it.
        ill: what it means where it is.
    """
    (ours, left), (theirs, kept) = weak, strong
    pairs = {
        row: [side[row][: min(len(left[row]), len(kept[row]))] for side in (left, kept)] for row in left if row in kept
    }
    numbers = {row: compared(ours, first, theirs, second) for row, (first, second) in pairs.items()}
    if not numbers:
        return Check(name, CheckVerdict.TOO_FEW, "", {})
    failed = [row for row, number in numbers.items() if significant(number)]
    row = min(numbers, key=lambda row: numbers[row]["p"])
    first, second, p = numbers[row].values()
    found = f"{ours} leaves {first:.1%} of {len(pairs[row][0])} images and {theirs} {second:.1%}"
    found = f"{found[0].upper()}{found[1:]}, on {row}"
    if failed:
        return Check(name, CheckVerdict.FAILED, f"{found} (p = {p:.2g}): {ill} on {', '.join(failed)}.", numbers)
    most = max(int(second.sum()) for _, second in pairs.values())
    if 0.5**most >= LEVEL:
        few = f"{found}: of so few images ({most}) no difference is beyond chance."
        return Check(name, CheckVerdict.TOO_FEW, few, numbers)
    chance = f" (p = {p:.2g}): no more than chance allows" if first < second else ""
    return Check(name, CheckVerdict.PASSED, f"{found}{chance}.", numbers)


def compared(better: str, ours: Bool[np.ndarray, "n"], worse: str, theirs: Bool[np.ndarray, "n"]) -> dict[str, float]:
    """The accuracies that two attacks leave on the same images, and how sure it is that the first one is stronger.

    Args:
        better: the name of the attack whose strength is tested.
        ours: what stands under it.
        worse: the name of the other.
        theirs: what stands under that.

    Returns:
        Both accuracies, and the p-value of the one-sided sign test on the images that only one of them breaks.
    """
    only_ours, only_theirs = int((~ours & theirs).sum()), int((ours & ~theirs).sum())
    either = only_ours + only_theirs
    p = binomtest(only_ours, either, alternative="greater").pvalue if either else 1.0
    return {better: float(ours.mean()), worse: float(theirs.mean()), "p": float(p)}


def significant(numbers: dict[str, float], level: float = LEVEL) -> bool:
    """Whether the first attack of a comparison is stronger than the second beyond chance."""
    return numbers["p"] < level
