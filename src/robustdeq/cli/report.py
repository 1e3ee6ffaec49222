"""`robustdeq report`: one page or document of several runs."""

from __future__ import annotations

from pathlib import Path

from robustdeq.base.errors import InputError
from robustdeq.cli.console import say
from robustdeq.cli.outputs import refuse_file
from robustdeq.reporting import read_run, refuse_foreign, save_document, save_page


def report(runs: list[Path], *, output: Path = Path("report.html"), title: str = "How robust is it?") -> None:
    """Make a page, or a Markdown document of tables and figures, from the folders of evaluations and reproductions.

    Args:
        runs: the folders, one after the other.
        output: the file: .html for a page that holds everything and works offline, .md for a document.
        title: of the page.
    """
    found = [read_run(folder) for folder in runs]
    refuse_foreign(output)
    refuse_file(output.parent)
    if output.suffix == ".md":
        save_document(found, output)
    elif output.suffix == ".html":
        save_page(found, output, title)
    else:
        raise InputError(f"{output} is neither a page nor a document; give --output a name that ends in .html or .md.")
    say(f"wrote {output}")
