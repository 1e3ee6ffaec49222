"""The price of the worst case: the attacks of `strict`, beside the same on only what still stands (`worst-case`).

Evaluations of f and products with its Jacobian are counted as they happen, one each for a sample.
"""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from robustdeq.evaluation import Protocol, WorstCase, measure
from robustdeq.study.configurations import ALIGNED, EXACT_8_7, UNROLLED
from robustdeq.study.counting import counted
from robustdeq.study.evidence import Evidence
from robustdeq.study.experiment import BEYOND, Experiment
from robustdeq.study.grids import strict_protocol
from robustdeq.study.panel import Matrix, Panel, Panels, accuracies
from robustdeq.study.study import Study, Trained

SIDES = ("strict", "worst case")


def besieged(study: Study, trained: Trained, protocol: Protocol, title: str) -> Matrix:
    """Of every defense, whether each image withstands all attacks; then, once for each image, what all that cost.

    Args:
        study: says which images.
        trained: the model.
        protocol: the attacks.
        title: what is shown meanwhile.
    """
    x, y = study.tensors()
    with counted(trained.deq) as found, study.progress(title) as report:
        result = measure(
            trained.deq, x, y, protocol, defenses=trained.defenses, batch_size=study.batch_size, report=report
        )
    return np.concatenate([result.standing, np.full((1, len(x)), found.total / len(x))])


def panels(titles: tuple[str, ...], found: Matrix) -> Panels:
    """What both sides cost and leave, models × sides × (defenses and cost) × images."""
    standing, cost = found[:, :, :-1].astype(bool), found[:, :, -1, 0]
    differ = (standing[:, 0] != standing[:, 1]).sum(axis=(1, 2)).astype(float)
    compared = np.stack([*cost.T, cost[:, 1] / cost[:, 0], differ], axis=1)
    columns = (*(f"{side}, f per image" for side in SIDES), "ratio", "outcomes that differ")
    yield Panel("evaluations of f and outcomes", "", titles, columns, compared, "Training")
    yield accuracies("worst case of the final state", titles, SIDES, standing[:, :, 0], row_axis="Training")


def _sides(study: Study, trained: Trained, name: str, title: str) -> Matrix:
    """What is found of one model on both sides, from what is kept of it if it was ever measured so."""
    strict = strict_protocol(study)
    protocols = (strict, WorstCase(**{setting.name: getattr(strict, setting.name) for setting in fields(strict)}))
    evidence = Evidence.of_model(study, "price", name, trained.fingerprint)

    def side(name: str, protocol: Protocol) -> Matrix:
        shape = len(trained.defenses) + 1, len(study.images)
        return evidence.once(name, shape, lambda: besieged(study, trained, protocol, f"{name}, {title}"))

    return np.stack([*map(side, SIDES, protocols)])


def _measure(study: Study) -> Panels:
    found = {}
    for way in study.compared(PRICE.configurations):
        for seed in range(study.seeds):
            title = way.title + f", seed {seed}" * (study.seeds > 1)
            found[title] = _sides(study, study.trained(way, seed=seed), way.name, title)
    yield from panels(tuple(found), np.stack([*found.values()]))


PRICE = Experiment(
    "price",
    BEYOND,
    "The price of the worst case: every attack on all images, or on what still stands",
    (UNROLLED, EXACT_8_7, ALIGNED),
    _measure,
    legend="Both sides make the same attacks from the same starts; the strict one, too, makes its costly attacks on "
    "survivors alone. Evaluations of f and products with its Jacobian are counted as they happen.",
)
