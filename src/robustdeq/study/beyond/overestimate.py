"""What looks robust and what is: every way of training under weaker and stronger eyes, on the same images.

By how much an attack overrates a model is the share of images that withstand it, less the share that withstand all.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool

from robustdeq.deq import DEQ
from robustdeq.deq.defenses import Defense
from robustdeq.evaluation import GridResult, Protocol
from robustdeq.study.configurations import ALIGNED, EXACT_8_7, EXACT_18_20, UNROLLED
from robustdeq.study.experiment import BEYOND, Experiment
from robustdeq.study.grids import strict_protocol
from robustdeq.study.panel import Drawing, Panels, accuracies, averages
from robustdeq.study.study import Study

READINGS = ("Clean", "Ready-made", "Paper's best", "Through the solver", "Worst case")
READY_MADE = "ready-made"

Outcomes = Bool[np.ndarray, "readings samples"]


def readings(result: GridResult) -> Outcomes:
    """Whether the final state classifies each image correctly, by the eyes of `READINGS`.

    Args:
        result: of a grid whose first row is the final state, with the columns of `Paper` and the ready-made attack.
    """
    row, paper = result.per_sample[0], ~np.asarray(result.beyond_paper)
    best = row[paper][row[paper].mean(axis=1).argmin()]
    ready, through = (row[result.ids.index(id)] for id in (f"own-{READY_MADE}", "through-final"))
    return np.stack([result.clean[0], ready, best, through, result.standing[0]])


def attacked(study: Study, deq: DEQ, protocol: Protocol, defenses: Mapping[str, Defense], title: str) -> Outcomes:
    """The readings of a model under a protocol and its ready-made attack; the first of the defenses is what is read."""
    gradients = {READY_MADE: study.estimators.ready_made(deq)}
    return readings(study.measure(title, deq, protocol, defenses, gradients))


def panels(found: Mapping[str, Outcomes], steps: int) -> Panels:
    """The accuracies by training, and by how many points each attack overrates them."""
    outcomes = np.stack([*found.values()])
    overrated = 100.0 * (outcomes[:, 1:-1].astype(float) - outcomes[:, -1:])
    title = f"accuracy of the final state, PGD-{steps}"
    yield accuracies(title, found, READINGS, outcomes, row_axis="Training", drawing=Drawing.CURVES)
    yield averages(
        "overestimate: accuracy under an attack less the worst case, on the same images",
        "points",
        found,
        READINGS[1:-1],
        overrated,
        row_axis="Training",
    )


def _measure(study: Study) -> Panels:
    found = {}
    for configuration in OVERESTIMATE.configurations:
        for seed in range(study.seeds):
            trained, name = study.trained(configuration, seed=seed), f", seed {seed}" * (study.seeds > 1)
            title = f"attacking {configuration.name}{name}"
            found[configuration.title + name] = attacked(
                study, trained.deq, strict_protocol(study), trained.defenses, title
            )
    yield from panels(found, study.attack.steps)


OVERESTIMATE = Experiment(
    "overestimate",
    BEYOND,
    "What looks robust and what is, by way of training",
    (UNROLLED, EXACT_8_7, EXACT_18_20, ALIGNED),
    _measure,
    legend="The paper's best is the weakest of its six columns, chosen on these images. The worst case is per image, "
    "over every adversary of the strict protocol.",
)
