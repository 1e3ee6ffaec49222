"""The leaderboard as tables: a row for each model, those of the same images and threat model together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from robustdeq.base.errors import require
from robustdeq.base.files import write_text
from robustdeq.leaderboard import Entry
from robustdeq.reporting.markdown import code, escaped, markdown
from robustdeq.reporting.page.rendering import rendered
from robustdeq.reporting.runs import MARKS
from robustdeq.reporting.tabulation import Cell, Line, Table, outcome_cell
from robustdeq.reporting.wording import count, number, threat

_COLUMNS = (
    "trained by",
    "clean",
    "its own protocol",
    "ready-made attack",
    "worst case",
    "certified",
    "weights",
    "f per image",
    "residual",
    "checks that failed",
)
_NOTES = (
    "accuracy in %, of the model as it is deployed",
    "its own protocol: what the authors of a model say that is left",
    "ready-made attack: PGD on the gradient that needs no thought about the solver",
    "worst case: per image, over all adversaries; the truth lies between it and what is certified",
    "residual: of the final state, relative",
    "of a vote among noisy copies: f per image and residual of one copy",
    "a dash where nothing was measured",
)


def read_entries(folder: str | Path) -> list[Entry]:
    """The entries in a folder; raises `InputError` where there are none or one is damaged."""
    folder = Path(folder)
    found = [Entry.read(path) for path in sorted(folder.glob("*.json"))]
    require(found, f"{folder} holds no entries; make them with `robustdeq submit`.")
    return found


def leaderboard_tables(entries: Sequence[Entry]) -> list[Table]:
    """A table for each set of images and threat model; the most robust model comes first.

    Images of one name are told apart by their fingerprints, with which the titles of their tables end.

    Args:
        entries: in any order.
    """
    ordered = sorted(entries, key=lambda entry: (_measured_on(entry), -_rank(entry)))
    groups = [(*measured_on, tuple(rows)) for measured_on, rows in groupby(ordered, _measured_on)]
    alike = Counter(about for about, _, _ in groups)
    return [
        Table(
            "; ".join([*about, *[f"images {images[:12] or 'unknown'}"] * (alike[about] > 1)]),
            "model",
            _COLUMNS,
            (tuple(map(_line, rows)),),
            _NOTES,
            interval="Wilson 95 % interval",
            details=("made by",),
        )
        for about, images, rows in groups
    ]


def entry_table(entry: Entry) -> Table:
    """One entry, a row for each column of the leaderboard."""
    rows = [(heading, cell.text) for heading, cell in zip(_COLUMNS, _line(entry).cells, strict=True)]
    return replace(Table.of("", (entry.name,), rows, *_NOTES), title=": ".join(_about(entry)), words=True)


def leaderboard_sections(entries: Sequence[Entry]) -> str:
    """The tables in Markdown, each with what made its adversaries below it.

    Args:
        entries: in any order.
    """
    return "\n".join(map(_section, leaderboard_tables(entries)))


def _section(table: Table) -> str:
    made = "\n".join(f"- {escaped(row.name)}: {code(row.details[0])}" for row in table.rows)
    return f"## {escaped(table.title)}\n\n{markdown(replace(table, title=''))}\nMade by:\n\n{made}\n"


def save_leaderboard(entries: Sequence[Entry], path: Path) -> None:
    """Write the tables as one Markdown file, whole or not at all."""
    write_text(path, f"# Leaderboard\n\n{MARKS['report']}\n\n{leaderboard_sections(entries)}")


def save_leaderboard_page(entries: Sequence[Entry], path: Path) -> None:
    """Write the tables as one HTML file, in which a heading sorts its table, whole or not at all."""
    tables = leaderboard_tables(entries)
    write_text(path, rendered("leaderboard.html", "sort.js", title="How robust are they?", tables=tables))


def _about(entry: Entry) -> tuple[str, str]:
    return f"{entry.data}, {count(len(entry.clean), 'image')}", threat(
        {"attack": {"eps": entry.eps, "norm": entry.norm}}
    )


def _measured_on(entry: Entry) -> tuple[tuple[str, str], str]:
    """What it is about, and the fingerprint of its images, empty where it is not known."""
    return _about(entry), str(entry.provenance.get("images", ""))


def _rank(entry: Entry) -> float:
    """What is known of its robustness: the worst case, or what is certified where it was not attacked."""
    known = entry.certified if entry.standing is None else entry.standing
    return -1.0 if known is None else float(known.mean())


def _line(entry: Entry) -> Line:
    cells = (
        Cell(entry.training),
        outcome_cell(entry.clean),
        Cell("–") if entry.reported is None else Cell(number(entry.reported), entry.protocol),
        outcome_cell(entry.ready_made),
        outcome_cell(entry.standing),
        _certified(entry),
        Cell(f"{entry.parameters:,}"),
        Cell("–" if entry.evaluations is None else str(entry.evaluations)),
        Cell("–" if entry.residual is None else number(entry.residual, logarithmic=True)),
        Cell(", ".join(entry.failed) or ("–" if entry.standing is None else "none")),
    )
    return Line(entry.name, cells, (entry.command or "–",))


def _certified(entry: Entry) -> Cell:
    cell = outcome_cell(entry.certified)
    return cell if entry.certified is None else replace(cell, value=f"{cell.value}, {entry.certificate}")
