"""Checks that the attacks were fit to find what there is: signs of obfuscated gradients.

After Athalye, Carlini and Wagner ("Obfuscated Gradients Give a False Sense of Security", ICML 2018, §3.1) and Carlini
et al. ("On Evaluating Adversarial Robustness", 2019): an attack that fails one of these proves nothing about a defense.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool
from scipy.stats import binomtest


@dataclass(frozen=True)
class Check:
    """One check, its verdict and the numbers behind it.

    Attributes:
        name: what is checked.
        passed: whether nothing speaks against the attacks.
        sentence: the verdict in words.
        numbers: what it rests on, per defense.
    """

    name: str
    passed: bool
    sentence: str
    numbers: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Evidence:
    """What the attacks through the solver found, each against one defense and judged there; (samples,) per defense.

    Attributes:
        single: standing under one run of PGD.
        restarted: standing under PGD with more steps and restarts.
        one_step: standing under a single step, on the probed images.
        moved: whether that single step changed the image, on the probed images.
        unbounded: standing under PGD that may change every pixel at will, on the probed images.
        before_queries: standing when all gradient-based attacks had been made.
        after_queries: standing after Square.
        ready_made: standing under the ready-made attack, the phantom gradient of the final state.
        errors: how many images had logits that were not finite.
    """

    single: Mapping[str, Bool[np.ndarray, "n"]]
    restarted: Mapping[str, Bool[np.ndarray, "n"]]
    one_step: Mapping[str, Bool[np.ndarray, "probed"]]
    moved: Mapping[str, Bool[np.ndarray, "probed"]]
    unbounded: Mapping[str, Bool[np.ndarray, "probed"]]
    before_queries: Mapping[str, Bool[np.ndarray, "n"]]
    after_queries: Mapping[str, Bool[np.ndarray, "n"]]
    ready_made: Mapping[str, Bool[np.ndarray, "n"]]
    errors: Mapping[str, int]


def checks(evidence: Evidence) -> tuple[Check, ...]:
    """All checks, in the order in which a reader wants them."""
    return (
        zero_gradients(evidence),
        one_step_beats_many(evidence),
        more_steps(evidence),
        unbounded(evidence),
        black_box_beats_white_box(evidence),
        misalignment(evidence),
        not_finite(evidence),
    )


def zero_gradients(evidence: Evidence) -> Check:
    """Gradients that vanish cannot be climbed."""
    numbers = {row: {"share with zero gradient": float(1 - moved.mean())} for row, moved in evidence.moved.items()}
    failed, worst = _above_zero(numbers)
    ill = f"Up to {worst:.1%} of the images have a zero gradient: attacks that climb it say nothing about those."
    return _verdict("zero gradients", numbers, failed, "No image has a zero gradient.", ill)


def one_step_beats_many(evidence: Evidence) -> Check:
    """A single step that does better than many steps shows that these lost their way."""
    numbers = {
        row: compared("one step", one, "many steps", evidence.single[row][: len(one)])
        for row, one in evidence.one_step.items()
    }
    failed = [row for row, number in numbers.items() if significant(number)]
    well = "A single step does not do better than PGD."
    ill = f"A single step does better than PGD on {', '.join(failed)}: PGD loses its way there."
    return _verdict("one step beats many", numbers, failed, well, ill)


def more_steps(evidence: Evidence) -> Check:
    """More steps and restarts must not do worse."""
    numbers = {
        row: compared("one run", evidence.single[row], "more steps and restarts", more)
        for row, more in evidence.restarted.items()
    }
    failed = [row for row, number in numbers.items() if significant(number)]
    gain = max(number["one run"] - number["more steps and restarts"] for number in numbers.values())
    well = f"More steps and restarts do not do worse; they break up to {100 * gain:.1f} points more."
    ill = f"More steps and restarts do worse on {', '.join(failed)}: the gradient there is not a direction of ascent."
    return _verdict("more steps do not help", numbers, failed, well, ill)


def unbounded(evidence: Evidence) -> Check:
    """An attack that may draw any image at all must succeed on every one."""
    numbers = {row: {"standing at unbounded ε": float(stands.mean())} for row, stands in evidence.unbounded.items()}
    failed, worst = _above_zero(numbers)
    well = "An attack without bound leaves no image standing."
    ill = f"An attack without bound misses up to {worst:.1%} of the images, on {', '.join(failed)}: all can be broken."
    return _verdict("unbounded attack", numbers, failed, well, ill)


def black_box_beats_white_box(evidence: Evidence) -> Check:
    """Square, which sees only logits, must not break what all gradients left standing."""
    sides = {row: (evidence.before_queries[row], after) for row, after in evidence.after_queries.items()}
    numbers = {
        row: {"standing before Square": float(before.mean()), "standing after Square": float(after.mean())}
        for row, (before, after) in sides.items()
    }
    failed = [row for row, (before, after) in sides.items() if after.sum() < before.sum()]
    well = "Square breaks no image that the attacks with gradients left standing."
    ill = (
        f"Square breaks images that every attack with gradients left standing, on {', '.join(failed)}: the gradients "
        "hide something there."
    )
    return _verdict("black box beats white box", numbers, failed, well, ill)


def misalignment(evidence: Evidence) -> Check:
    """How far the ready-made attack overrates the final state, against the gradient of what is computed (paper, §3)."""
    row = next(iter(evidence.single))
    numbers = compared("through the solver", evidence.single[row], "ready-made attack", evidence.ready_made[row])
    gap = 100 * (numbers["ready-made attack"] - numbers["through the solver"])
    well = (
        f"The ready-made attack is {gap:.1f} points weaker than the same attack through the solver, no more than "
        "chance allows."
    )
    ill = f"The ready-made attack overrates the model by {gap:.1f} points: its gradient is misaligned."
    failed = [row] if significant(numbers) else []
    return _verdict("forward and backward pass misaligned", {row: numbers}, failed, well, ill)


def not_finite(evidence: Evidence) -> Check:
    """Logits that are not finite are errors of the defense."""
    numbers = {row: {"images": float(count)} for row, count in evidence.errors.items()}
    failed, _ = _above_zero(numbers)
    ill = f"Some logits are not finite on {', '.join(failed)}; these images count as errors of the defense."
    return _verdict("logits that are not finite", numbers, failed, "All logits are finite.", ill)


def _verdict(name: str, numbers: dict[str, dict[str, float]], failed: list[str], well: str, ill: str) -> Check:
    return Check(name, not failed, ill if failed else well, numbers)


def _above_zero(numbers: dict[str, dict[str, float]]) -> tuple[list[str], float]:
    """The rows whose single number is above zero, and the largest of these numbers."""
    values = {row: value for row, number in numbers.items() for value in number.values()}
    return [row for row, value in values.items() if value > 0], max(values.values())


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


def significant(numbers: dict[str, float], level: float = 0.05) -> bool:
    """Whether the first attack of a comparison is stronger than the second beyond chance."""
    return numbers["p"] < level
