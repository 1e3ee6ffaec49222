"""Figs. 3b and 3c: attacks on each unrolled state z_n with k steps of damping λ, read at the early state."""

from __future__ import annotations

from functools import partial

from robustdeq.study.configurations import UNROLLED
from robustdeq.study.experiment import Experiment
from robustdeq.study.panel import Panels
from robustdeq.study.paper.unroll_ablation import unrolled_panels
from robustdeq.study.study import Study


def _measure(study: Study, damping: float) -> Panels:
    early, _ = unrolled_panels(study, study.trained(UNROLLED), f"fig3, λ = {damping}", damping)
    yield early


FIGURE_3B = Experiment(
    "fig3b",
    "Fig. 3b",
    "Attacks on each unrolled state, λ = 0.5",
    (UNROLLED,),
    partial(_measure, damping=0.5),
    "The first states must not be unrolled far for a powerful attack on the early state.",
)
FIGURE_3C = Experiment(
    "fig3c",
    "Fig. 3c",
    "Attacks on each unrolled state, λ = 1",
    (UNROLLED,),
    partial(_measure, damping=1.0),
    "Unrolling z_1 with k = 1 and λ = 1 hurts the early state z_3 most.",
)
