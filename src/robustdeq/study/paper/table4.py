"""Table 4: DEQs under the ensemble defense, at its weakest, beside explicit networks of their size."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool

from robustdeq.deq import AsIs
from robustdeq.evaluation import Chosen
from robustdeq.study import published
from robustdeq.study.configurations import NETWORKS, UNROLLED
from robustdeq.study.experiment import Experiment
from robustdeq.study.grids import under
from robustdeq.study.panel import Panel, Panels, accuracies
from robustdeq.study.paper.table3 import PAPERS, attacked_twice
from robustdeq.study.study import Study, Trained


def network(study: Study, trained: Trained, title: str) -> Bool[np.ndarray, "attacks samples"]:
    """Whether an explicit network classifies each image correctly, clean, under PGD and under AutoAttack."""
    attacks = {"PGD": (study.attack, None), "AutoAttack": (study.effort.autoattack(study.attack), None)}
    found = study.measure(title, trained.model, Chosen(study.attack, attacks), {"network": AsIs()})
    return np.concatenate([found.clean, under(found, attacks)[0]])


def _measure(study: Study) -> Panels:
    outcomes, paper, sizes = {}, [], {}
    for way, size, published_size in zip(NETWORKS, study.scale.sizes, PAPERS, strict=False):
        explicit, deq = study.trained(way), study.trained(UNROLLED, size)
        outcomes[way.title] = network(study, explicit, f"table4, {way.name}")
        climbed, automatic = attacked_twice(study, deq, f"table3, {size}")
        outcomes[f"DEQ-{size}"] = [climbed[2, 0], _weakest(climbed[2, 1:]), _weakest(automatic[2, 1:])]
        paper += [published.COMPARISON[way.name], published.COMPARISON[published_size]]
        for row, model in ((way.title, explicit.model), (f"DEQ-{size}", deq.model)):
            sizes[row] = sum(p.numel() for p in model.parameters()) / 1e6
    yield accuracies(
        "networks, and DEQs under the ensemble defense",
        outcomes,
        ("Clean", f"PGD-{study.attack.steps}", "AA"),
        np.array([*outcomes.values()]),
        row_axis="Arch.",
        paper=np.array(paper),
    )
    numbers = np.array([*sizes.values()])[:, None]
    yield Panel("#Params", "M", tuple(sizes), ("#Params",), numbers, paper=_MILLIONS[: len(sizes)])


_MILLIONS = np.array([[10.0], [10.0], [48.0], [48.0]])


def _weakest(columns: np.ndarray) -> np.ndarray:
    """The outcomes of the column with the lowest accuracy."""
    return columns[columns.sum(axis=-1).argmin()]


TABLE_4 = Experiment(
    "table4",
    "Table 4",
    "DEQs under the ensemble defense beside explicit networks of their size",
    (UNROLLED, *NETWORKS),
    _measure,
    "The DEQs are on a par with the networks.",
    every_size=True,
)
