"""An experiment: a table or figure, the models it needs, and how it is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from robustdeq.study.configurations import Configuration
from robustdeq.study.finding import Finding
from robustdeq.study.panel import Panels
from robustdeq.study.study import Study

BEYOND = "beyond the paper"


@dataclass(frozen=True)
class Experiment:
    """One table or figure.

    Args:
        name: on the command line.
        source: which table, figure or appendix of the paper it is, or `BEYOND`.
        title: what it is about.
        configurations: the ways of training whose models it compares.
        measure: makes its panels.
        remark: what the paper says of it.
        legend: how our numbers are to be read.
        every_size: whether it needs these models in every size of the scale, not only in the first.
        trains: whether weights that were given do not serve, because the training itself is looked at.
        scales: the names of the only scales at which it can be measured; empty for all.
        decide: says what became of the claims that it decides; they are drawn before its panels.
    """

    name: str
    source: str
    title: str
    configurations: tuple[Configuration, ...]
    measure: Callable[[Study], Panels]
    remark: str = ""
    legend: str = ""
    every_size: bool = False
    trains: bool = False
    scales: tuple[str, ...] = ()
    decide: Callable[[Study], Iterator[Finding]] = lambda study: iter(())
