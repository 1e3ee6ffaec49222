"""What looks robust and what is: every way of training under weaker and stronger eyes, on the same images.

By how much an attack overrates a model is the share of images that withstand it, less the share that withstand all.
Which way of training is the more robust one may depend on the attack: so the ways are compared under each.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
from jaxtyping import Bool

from robustdeq.base.statistics import paired_effect
from robustdeq.deq import DEQ
from robustdeq.deq.defenses import FinalState
from robustdeq.evaluation import GridResult, Protocol
from robustdeq.study.configurations import ALIGNED, EXACT_8_7, EXACT_18_20, UNROLLED
from robustdeq.study.evidence import Evidence
from robustdeq.study.experiment import BEYOND, Experiment
from robustdeq.study.grids import strict_protocol
from robustdeq.study.panel import Drawing, Panels, accuracies, averages, tested
from robustdeq.study.study import Study, Trained

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


def attacked(study: Study, deq: DEQ, protocol: Protocol, title: str) -> Outcomes:
    """The readings of a model's final state under a protocol and its ready-made attack."""
    gradients = {READY_MADE: study.estimators.ready_made(deq)}
    return readings(study.measure(title, deq, protocol, {"final": FinalState()}, gradients))


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


def ranking(found: Mapping[str, Bool[np.ndarray, "seeds readings samples"]]) -> Panels:
    """By how many points one way of training is more accurate than another, on the same images, by every reading.

    Args:
        found: the readings of every seed, by way of training.
    """
    pairs = [*combinations(found, 2)]
    differences = (np.swapaxes(found[one].astype(float) - found[other], 0, 1) for one, other in pairs)
    yield from tested(
        "accuracy of one way of training less that of another, on the same images",
        "sign-flip test",
        [f"{one} less {other}" for one, other in pairs],
        READINGS,
        [[*map(paired_effect, by_reading)] for by_reading in differences],
        row_axis="Trainings",
    )


def _once(study: Study, name: str, trained: Trained, title: str) -> Outcomes:
    """The readings of one model, from what is kept of it if it was ever attacked so."""
    evidence = Evidence.of_model(study, "overestimate", name, trained.fingerprint)
    shape = len(READINGS), len(study.images)
    return evidence.once("readings", shape, lambda: attacked(study, trained.deq, strict_protocol(study), title))


def _measure(study: Study) -> Panels:
    found = {}
    for way in study.compared(OVERESTIMATE.configurations):
        for seed in range(study.seeds):
            title = f"attacking {way.name}" + f", seed {seed}" * (study.seeds > 1)
            found[way.title, seed] = _once(study, way.name, study.trained(way, seed=seed), title)
    seeds, ways = range(study.seeds), dict.fromkeys(title for title, _ in found)
    named = {f"{title}, seed {seed}" if len(seeds) > 1 else title: part for (title, seed), part in found.items()}
    yield from panels(named, study.attack.steps)
    if len(ways) > 1:
        yield from ranking({way: np.stack([found[way, seed] for seed in seeds]) for way in ways})


OVERESTIMATE = Experiment(
    "overestimate",
    BEYOND,
    "What looks robust and what is, by way of training",
    (UNROLLED, EXACT_8_7, EXACT_18_20, ALIGNED),
    _measure,
    legend="The paper's best is the weakest of its six columns, chosen on these images. The worst case is per image, "
    "over every adversary that the strict protocol makes for the final state. Differences between ways of training "
    "are means over seeds and images; their intervals count both as drawn at random, their p-values the images alone, "
    "and are not corrected for their number.",
)
