"""The order of attacks: at equal evaluations of f, ours beside the standard AutoAttack, both through the solver.

Evaluations of f and products with its Jacobian are counted as they happen, one each for a sample. An image that an
attack has broken is left alone by it, and by all attacks after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.stats import rankdata

from robustdeq.attacks import PGD, Attack, ByDistance, MomentumPGD, MultiTargeted, Square, StoppingPGD
from robustdeq.base.provenance import describe, digest
from robustdeq.deq import FinalState
from robustdeq.deq.modes import evaluating
from robustdeq.evaluation.column import Row
from robustdeq.evaluation.job import judge
from robustdeq.study.configurations import ALIGNED, EXACT_8_7, UNROLLED
from robustdeq.study.counting import counted
from robustdeq.study.evidence import Evidence
from robustdeq.study.experiment import BEYOND, Experiment
from robustdeq.study.panel import Matrix, Panel, Panels, accuracies, paired
from robustdeq.study.study import Effort, Study, Trained


def share(effort: Effort, part: float) -> int:
    """So many steps: a part of those that AutoAttack takes in a run, at least 1."""
    return max(1, round(part * effort.apgd_steps))


def alone(pgd: PGD, effort: Effort) -> dict[str, Attack]:
    """The attacks that are compared alone, each of as many gradients: two ways to climb, several losses, two orders."""
    steps = share(effort, 0.3)
    climbs = {"PGD": StoppingPGD.like(pgd, steps, 1), "Auto-PGD": MomentumPGD.like(pgd, steps, 1)}
    losses = ("cross_entropy", "margin", "probability_margin")
    third = MomentumPGD.like(pgd, max(1, steps // 3), 1)
    by_distance = replace(third, steps=max(1, third.steps - 1))
    return {
        **{
            f"{name}, {loss.replace('_', ' ')}": replace(attack, criterion=loss)
            for name, attack in climbs.items()
            for loss in losses
        },
        "Auto-PGD, targeted DLR": MultiTargeted(third, 3),
        "Auto-PGD, targeted margin": MultiTargeted(third, 3, "targeted_margin"),
        "Auto-PGD, targeted probability margin": MultiTargeted(third, 3, "targeted_probability_margin"),
        "Auto-PGD, targeted, probability margin, then margin": MultiTargeted(
            MomentumPGD.like(pgd, max(1, steps // 6), 1), 3, ("targeted_probability_margin", "targeted_margin")
        ),
        "Auto-PGD, targeted DLR by distance": MultiTargeted(by_distance, 3, order=ByDistance(3)),
    }


def ours(pgd: PGD, effort: Effort) -> dict[str, Attack]:
    """Our order: ever longer attacks on what still stands, towards other classes by the margin of probabilities."""

    def towards(part: float, targets: int, criterion: str = "targeted_probability_margin") -> Attack:
        return MultiTargeted(MomentumPGD.like(pgd, share(effort, part), 1), targets, criterion)

    return {
        "three classes, 0.1 of the steps": towards(0.1, 3),
        "all classes, 0.2": towards(0.2, effort.targets),
        "all classes, 0.5": towards(0.5, effort.targets),
        "all classes, 0.5, margin of logits": towards(0.5, effort.targets, "targeted_margin"),
        "Auto-PGD": MomentumPGD.like(pgd, share(effort, 1), 1),
        "all classes": towards(1, effort.targets),
        "Square": Square(pgd.eps, pgd.norm, pgd.seed, pgd.bounds, queries=effort.queries),
    }


@dataclass(frozen=True, eq=False)
class Course:
    """What stands after each of some attacks.

    Attributes:
        clean: whether each image is classified correctly before the first.
        evaluations: of f, per image, up to the end of each.
        standing: whether each image is still classified correctly.
    """

    clean: Bool[np.ndarray, "samples"]
    evaluations: Float[np.ndarray, "attacks"]
    standing: Bool[np.ndarray, "attacks samples"]

    def within(self, budget: float) -> Bool[np.ndarray, "samples"]:
        """What stands when so many evaluations per image are spent, an attack that is not finished left out."""
        done = int((self.evaluations <= budget).sum())
        return self.standing[done - 1] if done else self.clean


def besieged(study: Study, trained: Trained, title: str, attacks: Mapping[str, Attack], survivors: bool) -> Course:
    """What became of the images under some attacks through the solver, judged by the final state.

    Args:
        study: says which images, and keeps what was measured.
        trained: the model.
        title: what is shown meanwhile.
        attacks: by name, in order.
        survivors: whether each attacks what those before it left standing, and adds to what they spent.
    """
    evidence = Evidence.of_model(study, "order", study.size, trained.fingerprint)

    def measured() -> Matrix:
        return np.stack(
            [np.append(spent, standing) for spent, standing in _courses(study, trained, title, attacks, survivors)]
        )

    known_as = digest([describe([*attacks.values()]), survivors])
    kept = evidence.once(known_as, (len(attacks) + 1, len(study.images) + 1), measured)
    spent, standing = kept[1:, 0], kept[:, 1:].astype(bool)
    return Course(standing[0], spent, standing[1:])


def _courses(
    study: Study, trained: Trained, title: str, attacks: Mapping[str, Attack], survivors: bool
) -> Iterator[tuple[float, Bool[np.ndarray, "samples"]]]:
    """Evaluations per image and what stands: before the first attack, and after each."""
    deq, (x, y) = trained.deq, study.tensors()
    row = Row("final", deq, FinalState())

    def stands(images: torch.Tensor, adversaries: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(judge(deq, [row], images, adversaries, labels).standing[0])

    parts = zip(x.split(study.batch_size), y.split(study.batch_size), strict=True)
    with evaluating(deq):
        clean = torch.cat([stands(images, images, labels) for images, labels in parts])
    standing = clean.clone()
    yield 0.0, clean.numpy()
    with evaluating(deq), counted(deq) as found, study.progress(title) as report:
        for done, (name, attack) in enumerate(attacks.items()):
            report(done / len(attacks), name)
            if not survivors:
                standing, found.forward, found.backward = clean.clone(), 0, 0
            for chosen in filter(len, standing.nonzero()[:, 0].split(study.batch_size)):
                adversaries = attack(row.judge, x[chosen], y[chosen])
                standing[chosen] &= stands(x[chosen], adversaries, y[chosen])
            yield found.total / len(x), standing.clone().numpy()
        report(1.0, "done")


def _measure(study: Study) -> Panels:
    pgd, effort = study.attack, study.effort
    theirs = {part.label: part for part in effort.autoattack(pgd).components}
    sides, singly = {"ours": ours(pgd, effort), "AutoAttack": theirs}, alone(pgd, effort)
    single: dict[str, Course] = {}
    courses: dict[str, dict[str, Course]] = {}
    for configuration in study.compared(ATTACK_ORDER.configurations):
        for seed in range(study.seeds):
            trained = study.trained(configuration, seed=seed)
            title = configuration.title + f", seed {seed}" * (study.seeds > 1)
            single[title] = besieged(study, trained, f"each alone, {title}", singly, False)
            courses[title] = {
                side: besieged(study, trained, f"{side}, {title}", attacks, True) for side, attacks in sides.items()
            }
    axes = ("Training", "Attack")
    left = np.stack([course.standing for course in single.values()])
    yield accuracies(
        f"accuracy under one attack of {share(effort, 0.3)} gradients",
        single,
        singly,
        left,
        row_axis=axes[0],
        column_axis=axes[1],
    )
    ranks = np.stack([rankdata(row) for row in left.sum(axis=2)])
    ranked = np.concatenate([ranks, ranks.mean(axis=0, keepdims=True)])
    yield Panel("rank of each attack, 1 the strongest", "rank", (*single, "mean"), tuple(singly), ranked, *axes)
    for side, attacks in sides.items():
        made = [course[side] for course in courses.values()]
        standing = np.stack([course.standing for course in made])
        title = f"accuracy after each attack, {side}"
        yield accuracies(title, courses, attacks, standing, row_axis=axes[0], column_axis=axes[1])
        spent = np.stack([course.evaluations for course in made])
        yield Panel(f"evaluations of f per image so far, {side}", "f", tuple(courses), tuple(attacks), spent, *axes)
    yield from _compared(courses, [*theirs])


def _compared(courses: Mapping[str, Mapping[str, Course]], components: Sequence[str]) -> Panels:
    """Ours at the evaluations that AutoAttack has spent after each of its components, and where it has caught up."""
    before, after, ratios = [], [], []
    for course in courses.values():
        mine, theirs = course["ours"], course["AutoAttack"]
        before.append(theirs.standing)
        after.append(np.stack([mine.within(budget) for budget in theirs.evaluations]))
        caught = np.flatnonzero(mine.standing.sum(axis=1) <= theirs.standing[-1].sum())
        ratios.append(
            [mine.evaluations[caught[0]] / theirs.evaluations[-1] if len(caught) and theirs.evaluations[-1] else np.nan]
        )
    yield from paired(
        "what our order takes beyond AutoAttack, at the evaluations that this has spent after each part",
        courses,
        components,
        np.stack(before),
        np.stack(after),
        row_axis="Training",
        column_axis="AutoAttack up to",
    )
    reached: Matrix = np.array(ratios)
    yield Panel(
        "evaluations of f until as few images stand as after AutoAttack, ours over AutoAttack's",
        "ratio",
        tuple(courses),
        ("Ours over AutoAttack's",),
        reached,
        "Training",
    )


ATTACK_ORDER = Experiment(
    "attack-order",
    BEYOND,
    "The order of attacks beside the standard AutoAttack, at equal evaluations of f",
    (UNROLLED, EXACT_8_7, ALIGNED),
    _measure,
    legend="All attacks climb the gradient through the solver of the final state, which also judges. Evaluations of f "
    "and products with its Jacobian are counted as they happen, one each for an image. Of our order only attacks count "
    "that were finished at the time; there is no ratio where it leaves more, or nothing was to be attacked. The values "
    "of p are not corrected for their number.",
)
