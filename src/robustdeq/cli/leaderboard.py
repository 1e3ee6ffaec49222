"""`robustdeq leaderboard`: the rows of a folder as one document, or as one page whose tables can be sorted."""

from __future__ import annotations

from pathlib import Path

from robustdeq.base.errors import InputError
from robustdeq.cli.console import say
from robustdeq.cli.outputs import refuse_file
from robustdeq.reporting import read_entries, refuse_foreign, save_leaderboard, save_leaderboard_page


def leaderboard(entries: Path = Path("results/leaderboard"), *, output: Path = Path("leaderboard.html")) -> None:
    """Make the table of all entries that `robustdeq submit` wrote.

    Args:
        entries: their folder.
        output: the file: .html for a page whose tables can be sorted, .md for a document.
    """
    writers = {".html": save_leaderboard_page, ".md": save_leaderboard}
    if output.suffix not in writers:
        raise InputError(f"{output} is neither a page nor a document; give --output a name that ends in .html or .md.")
    refuse_foreign(output)
    refuse_file(output.parent)
    writers[output.suffix](read_entries(entries), output)
    say(f"wrote {output}")
