"""How long work tells how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Report = Callable[[float, str], None]
"""Takes the share of the work that is done, in [0, 1], and a word on what is under way."""


@contextmanager
def progress_bar(title: str, console: Console | None = None) -> Iterator[Report]:
    """Show a bar, from the first report on, with the time left as estimated from the share done per second.

    Args:
        title: what the bar is for.
        console: where it is shown; standard error by default, so that results can be piped.
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
    task = progress.add_task(title, total=1.0, what="")

    def report(share: float, what: str) -> None:
        progress.start()
        progress.update(task, completed=share, what=what)

    try:
        yield report
    finally:
        if progress.live.is_started:
            progress.stop()
