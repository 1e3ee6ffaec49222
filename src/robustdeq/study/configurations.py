"""The ways of training that the paper compares, and ours: each a packaged recipe at the paper's size."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Configuration:
    """A way of training.

    Args:
        name: on the command line and in file names.
        title: in tables, as in the paper.
        recipe: the packaged recipe that trains it at the paper's size.
    """

    name: str
    title: str
    recipe: str


UNROLLED = Configuration("unrolled", "(8/7) Unrolling-Trained", "large-pgdat-unrolled")
EXACT_8_7 = Configuration("exact-8-7", "(8/7) Exact-Trained", "large-pgdat-exact-8-7")
EXACT_18_20 = Configuration("exact-18-20", "(18/20) Exact-Trained", "large-pgdat-exact-18-20")
EXACT_50_50 = Configuration("exact-50-50", "(50/50) Exact-Trained", "large-pgdat-exact-50-50")
STANDARD = Configuration("standard", "Standardly-Trained", "large-standard")
ALIGNED = Configuration("aligned", "(8) Solver-Aligned", "large-aligned")
RESNET = Configuration("resnet18", "ResNet-18", "resnet18-pgdat")
WIDE = Configuration("wrn34-10", "WRN-34-10", "wrn34-10-pgdat")

CONFIGURATIONS = (UNROLLED, EXACT_8_7, EXACT_18_20, EXACT_50_50, STANDARD, ALIGNED, RESNET, WIDE)
NETWORKS = (RESNET, WIDE)
