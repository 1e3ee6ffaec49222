"""How long work tells how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from importlib.util import find_spec

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Report = Callable[[float, str], None]
"""Takes the share of the work that is done, in [0, 1], and a word on what is under way."""


def silent(share: float, what: str) -> None:
    """Tell nobody."""


def told(title: str, report: Report | None) -> AbstractContextManager[Report]:
    """The report that was given, or else a bar where somebody may look: a terminal, or a notebook with ipywidgets."""
    if report is not None:
        return nullcontext(report)
    console = Console(stderr=True)
    shown = console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)
    return progress_bar(title, console) if shown else nullcontext(silent)


@contextmanager
def progress_bars(titles: Iterable[str], console: Console | None = None) -> Iterator[dict[str, Report]]:
    """Show a bar per piece of work, from the first report on, with the time left as estimated from its recent speed.

    Args:
        titles: what the bars are for.
        console: where they are shown; standard error by default, so that results can be piped.
    """
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[what]}"),
    )
    progress = Progress(*columns, console=console or Console(stderr=True), speed_estimate_period=600)

    def report(task: TaskID, share: float, what: str) -> None:
        progress.start()
        progress.update(task, completed=share, what=what)

    try:
        yield {title: partial(report, progress.add_task(title, total=1.0, what="")) for title in titles}
    finally:
        if progress.live.is_started:
            progress.stop()


@contextmanager
def progress_bar(title: str, console: Console | None = None) -> Iterator[Report]:
    """Show one bar, as `progress_bars` does."""
    with progress_bars([title], console) as reports:
        yield reports[title]
