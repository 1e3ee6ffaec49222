"""Table 4: DEQs under the ensemble defense, at its weakest, beside explicit networks of their size."""

from __future__ import annotations

import numpy as np

from robustdeq.deq import AsIs
from robustdeq.evaluation import Chosen
from robustdeq.study import published
from robustdeq.study.configurations import NETWORKS, UNROLLED
from robustdeq.study.experiment import Experiment
from robustdeq.study.panel import Panel, Panels, accuracies
from robustdeq.study.paper.table3 import PAPERS, attacked_twice
from robustdeq.study.study import Study


def _measure(study: Study) -> Panels:
    outcomes, paper, sizes = {}, [], {}
    auto = study.effort.autoattack(study.attack)
    for network, size, published_size in zip(NETWORKS, study.scale.sizes, PAPERS, strict=False):
        explicit, deq = study.trained(network), study.trained(UNROLLED, size)
        protocol = Chosen(study.attack, {"PGD": (study.attack, None), "AutoAttack": (auto, None)})
        found = study.measure(f"table4, {network.name}", explicit.model, protocol, {"network": AsIs()})
        outcomes[network.title] = [found.clean[0], *found.per_sample[0]]
        climbed, automatic = attacked_twice(study, deq, f"table3, {size}")
        outcomes[f"DEQ-{size}"] = [climbed[2, 0], _weakest(climbed[2, 1:]), _weakest(automatic[2, 1:])]
        paper += [published.COMPARISON[network.name], published.COMPARISON[published_size]]
        for row, model in ((network.title, explicit.model), (f"DEQ-{size}", deq.model)):
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
