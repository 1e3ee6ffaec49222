"""What the pages show of stored results, made from the JSON under `results/` when the documentation is built (mkdocs).

A page says where with a line of its own: `<!-- evaluation: FOLDER -->`, `<!-- benchmarks: FOLDER -->`,
`<!-- panels: FILE -->`, `<!-- claims: FILE -->`, `<!-- leaderboard: FOLDER -->`, `<!-- reliability: FOLDER -->` or
`<!-- reproductions: FOLDER FOLDER … -->`; places are relative to the repository. The reproductions become an index
there, and a page for each experiment beside it; a heading of the leaderboard sorts its table.
`<!-- readme: FILE -->` is the README without its links to what is no page, `<!-- source: FILE -->` a file of Python.
"""

import re
import tempfile
from pathlib import Path

from mkdocs.structure.files import File
from pictures import THEMES, gradients
from promises import figures
from verdicts import verdicts

from robustdeq.reporting import (
    grid_table,
    leaderboard_sections,
    markdown,
    panel_table,
    performance_sections,
    read_entries,
    read_evaluation,
    read_run,
    reproduction_index,
    reproduction_pages,
)
from robustdeq.study import Reproduction

ROOT = Path(__file__).parents[1]
SORT = ROOT / "src/robustdeq/reporting/page/sort.js"
REPRODUCTION, FIGURES = "reproduction", "figures"


def runs(folders):
    """What some folders hold."""
    return [read_run(ROOT / folder) for folder in folders.split()]


def evaluation(folder):
    """The defense × attack table of an evaluation."""
    return markdown(grid_table(read_evaluation(ROOT / folder)))


def benchmarks(folder):
    """The benchmarks of a folder, a section each."""
    return performance_sections(ROOT / folder)


def panels(file):
    """The tables of one reproduction."""
    return "\n\n".join(markdown(panel_table(panel)) for panel in Reproduction.read(ROOT / file).panels)


def reproductions(folders):
    """All that was reproduced; the claims have a page of their own."""
    return "".join(reproduction_index(runs(folders)).partition("## Tables and figures")[1:])


def claims(file):
    """The claims of the paper with their verdicts."""
    return verdicts(ROOT / file)


def leaderboard(folder):
    """The entries of a folder, in tables that can be sorted."""
    return f'<div class="sortable" markdown>\n\n{leaderboard_sections(read_entries(ROOT / folder))}\n</div>'


def reliability(folder):
    """What the long runs of the fault harness came to."""
    return figures(ROOT / folder)


def readme(name):
    """The README as a page."""
    text = re.sub(
        r"\[([^\]]+)\](?:\((?!docs/|https?:)[^)]+\)|\[\w+\])", r"\1", (ROOT / name).read_text(encoding="utf-8")
    )
    return re.sub(r"^\[\w+\]: .*\n", "", text, flags=re.MULTILINE).replace("](docs/", "](")


def source(file):
    """A file of Python, to be copied."""
    return f"```python\n{(ROOT / file).read_text(encoding='utf-8').strip()}\n```"


MAKERS = {
    maker.__name__: maker
    for maker in (evaluation, benchmarks, panels, leaderboard, reproductions, claims, reliability, readme, source)
}
CODE = re.compile(r"<pre\b.*?</pre>|<code>.*?</code>", flags=re.DOTALL)
HYPHENATED = re.compile(r"[\w.]*(?:-+[\w.]+)+")
MARK = re.compile(rf"^<!-- ({'|'.join(MAKERS)}): (.+) -->$", flags=re.MULTILINE)


def on_files(files, *, config):
    """Add a page for every experiment that was reproduced, its figures, pictures, and the script that sorts tables."""
    files.append(File.generated(config, SORT.name, content=SORT.read_text(encoding="utf-8")))
    for theme in THEMES:
        files.append(File.generated(config, f"pictures/gradients-{theme}.svg", content=gradients(theme)))
    index = (Path(config.docs_dir) / REPRODUCTION / "index.md").read_text(encoding="utf-8")
    (folders,) = (folders for maker, folders in MARK.findall(index) if maker == reproductions.__name__)
    with tempfile.TemporaryDirectory() as temporary:
        figures = Path(temporary) / FIGURES
        made = {f"{name}.md": text for name, text in reproduction_pages(runs(folders), figures).items()}
        made |= {f"{FIGURES}/{path.name}": path.read_bytes() for path in sorted(figures.iterdir())}
    for name, content in made.items():
        files.append(File.generated(config, f"{REPRODUCTION}/{name}", content=content))
    return files


def on_page_markdown(markdown, *, page, config, files):
    """Put what is made in the place of the marks of a page."""
    return MARK.sub(lambda found: MAKERS[found[1]](found[2]), markdown)


def on_page_content(html, *, page, config, files):
    """Keep options and names with hyphens whole in code, and let paths break behind a part of them."""
    return CODE.sub(lambda code: "".join(map(breakable, re.split("(<[^>]+>)", code[0]))), html)


def breakable(part):
    """A tag as it is, or text of code with the places where it may break."""
    if part.startswith("<"):
        return part
    whole = HYPHENATED.sub(r'<span class="whole">\g<0></span>', part)
    return re.sub(r"(?<=\w)[/_.](?=\w)", r"\g<0><wbr>", whole)
