"""What the pages show of stored results, made from the JSON under `results/` when the documentation is built (mkdocs).

A page says where with a line of its own: `<!-- evaluation: FOLDER -->`, `<!-- benchmarks: FOLDER -->` or
`<!-- reproductions: FOLDER FOLDER … -->`; folders are relative to the repository. `<!-- readme: FILE -->` is the README
without its links to what is no page.
"""

import re
import tempfile
from pathlib import Path

from mkdocs.structure.files import File

from robustdeq.reporting import (
    grid_table,
    markdown,
    performance_sections,
    read_evaluation,
    read_run,
    reproduction_sections,
)

ROOT = Path(__file__).parents[1]
FIGURES = "reproduction"


def evaluation(folder, *_):
    """The defense × attack table of an evaluation."""
    return markdown(grid_table(read_evaluation(ROOT / folder)))


def benchmarks(folder, *_):
    """The benchmarks of a folder, a section each."""
    return performance_sections(ROOT / folder)


def reproductions(folders, files, config):
    """The reproductions of some folders, a section each, with their figures."""
    with tempfile.TemporaryDirectory() as temporary:
        figures = Path(temporary) / FIGURES
        text = reproduction_sections([read_run(ROOT / folder) for folder in folders.split()], figures)
        for figure in sorted(figures.iterdir()):
            files.append(File.generated(config, f"{FIGURES}/{figure.name}", content=figure.read_bytes()))
    return text


def readme(name, *_):
    """The README as a page."""
    text = re.sub(
        r"\[([^\]]+)\](?:\((?!docs/|https?:)[^)]+\)|\[\w+\])", r"\1", (ROOT / name).read_text(encoding="utf-8")
    )
    return re.sub(r"^\[\w+\]: .*\n", "", text, flags=re.MULTILINE).replace("](docs/", "](")


MAKERS = {maker.__name__: maker for maker in (evaluation, benchmarks, reproductions, readme)}
MARK = re.compile(rf"^<!-- ({'|'.join(MAKERS)}): (.+) -->$", flags=re.MULTILINE)


def on_page_markdown(markdown, *, page, config, files):
    """Put what is made in the place of the marks of a page."""
    return MARK.sub(lambda found: MAKERS[found[1]](found[2], files, config), markdown)
