"""A benchmark: what is measured side by side in one run, and the ratios that are claimed of it."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from robustdeq.base.errors import check_counts
from robustdeq.base.progress import Report
from robustdeq.base.provenance import DISPLAY, code_fingerprint, command_and_versions
from robustdeq.study.panel import Panel, bars, read_plain, write_plain
from robustdeq.study.stopwatch import Timing
from robustdeq.zoo import MDEQ, mdeq


@dataclass(frozen=True)
class Claim:
    """A ratio and the bound that it is to keep.

    Args:
        subject: what is compared, and with what.
        ratio: the median over the rounds of a run, or a count.
        bound: what it is to keep.
        at_least: whether the bound is a lower one.
        low: the least ratio of a round.
        high: the greatest ratio of a round.
    """

    subject: str
    ratio: float
    bound: float
    at_least: bool
    low: float
    high: float

    @property
    def holds(self) -> bool:
        """Whether the ratio keeps its bound."""
        return self.ratio >= self.bound if self.at_least else self.ratio <= self.bound

    @classmethod
    def of_times(cls, subject: str, over: Timing, under: Timing, bound: float, at_least: bool = False) -> Claim:
        """The ratio of two sides that were timed in turn, round by round."""
        ratios = [a / b for a, b in zip(over.seconds, under.seconds, strict=True)]
        return cls(subject, statistics.median(ratios), bound, at_least, min(ratios), max(ratios))

    @classmethod
    def of_counts(cls, subject: str, over: float, under: float, bound: float, at_least: bool = False) -> Claim:
        """The ratio of two counts, which are the same in every run."""
        return cls(subject, over / under, bound, at_least, over / under, over / under)


@dataclass(frozen=True)
class Setting:
    """In what size a benchmark is run.

    Args:
        size: of the MDEQ.
        batch: how many images at once.
        repetitions: how often every side is timed.
        device: where.
        report: told how far it is.
        folder: where trainings are kept, so that a benchmark that was interrupted goes on; None keeps none.

    Raises:
        InputError: a count is not positive.
    """

    size: str = "large"
    batch: int = 16
    repetitions: int = 5
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    report: Report = lambda share, what: None
    folder: Path | None = None

    def __post_init__(self) -> None:
        check_counts(batch=self.batch, repetitions=self.repetitions)

    def model(self) -> MDEQ:
        """An MDEQ with random weights, the same every time."""
        torch.manual_seed(0)
        return mdeq(self.size).to(self.device)

    def images(self, deq: MDEQ, count: int) -> tuple[Float[Tensor, "count *image"], Int[Tensor, "count"]]:
        """Random images and labels that fit a model, the same every time."""
        draws = torch.Generator().manual_seed(0)
        x, y = torch.rand(count, *deq.image_shape, generator=draws), torch.randint(10, (count,), generator=draws)
        return x.to(self.device), y.to(self.device)


@dataclass(frozen=True)
class Measured:
    """What came of a benchmark: its numbers, and what is claimed of them."""

    panels: tuple[Panel, ...]
    claims: tuple[Claim, ...] = ()


@dataclass(frozen=True)
class Bench:
    """One benchmark.

    Args:
        name: on the command line.
        title: what it compares.
        measure: runs it.
    """

    name: str
    title: str
    measure: Callable[[Setting], Measured]


def run(bench: Bench, setting: Setting) -> BenchResult:
    """Run a benchmark, and say where its numbers come from."""
    cuda = setting.device.type == "cuda"
    provenance = {
        **command_and_versions(),
        "size": setting.size,
        "batch": setting.batch,
        "repetitions": setting.repetitions,
        "device": torch.cuda.get_device_name(setting.device) if cuda else f"cpu ({platform.machine()})",
        "threads": torch.get_num_threads(),
        "code": code_fingerprint(unrelated=DISPLAY),
    }
    return BenchResult(bench.name, bench.title, bench.measure(setting), provenance)


@dataclass(frozen=True)
class BenchResult:
    """A benchmark that was run.

    Args:
        name: of the benchmark.
        title: what it compares.
        measured: what came of it.
        provenance: the command, the device, its threads and the versions.
    """

    name: str
    title: str
    measured: Measured
    provenance: Mapping[str, Any]

    def save(self, path: Path) -> None:
        """Write it as JSON, whole or not at all."""
        claims = [asdict(claim) | {"holds": claim.holds} for claim in self.measured.claims]
        panels = [panel.plain() for panel in self.measured.panels]
        provenance = dict(self.provenance)
        plain = {"name": self.name, "title": self.title, "claims": claims, "panels": panels, "provenance": provenance}
        write_plain(path, plain)

    @classmethod
    def read(cls, path: Path) -> BenchResult:
        """Read what `save` wrote.

        Raises:
            InputError: the file cannot be read, or holds something else.
        """

        def made(plain: dict[str, Any]) -> BenchResult:
            claims = tuple(Claim(**{k: v for k, v in claim.items() if k != "holds"}) for claim in plain["claims"])
            panels = tuple(map(Panel.from_plain, plain["panels"]))
            return cls(plain["name"], plain["title"], Measured(panels, claims), plain["provenance"])

        return read_plain(path, made, "benchmark; make it with `robustdeq bench`.")


def times_panel(title: str, times: Mapping[str, Timing], row_axis: str = "Side") -> Panel:
    """What each side took in a round: median and range."""
    return bars(title, "ms", "time", {name: timing.seconds for name, timing in times.items()}, row_axis, scale=1e3)
