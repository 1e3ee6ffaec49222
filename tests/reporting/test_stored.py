"""Every result in the repository can be read and shown, in a terminal of 80 columns, too."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from robustdeq.reporting import (
    Table,
    checks_table,
    claims_table,
    experiments_table,
    grid_table,
    markdown,
    panel_table,
    performance_sections,
    read_evaluation,
    read_run,
    terminal,
)
from robustdeq.study.bench import BenchResult
from robustdeq.study.scales import SCALES, Scale

STORED = Path(__file__).parents[2] / "results"
EVALUATIONS = sorted(path.parent.name for path in STORED.glob("*/results.json"))
REPRODUCTIONS = sorted(path.name for path in STORED.glob("reproduction-*"))


def assert_fits(*tables: Table) -> None:
    """No line is longer than 80 characters; no number, no name and no word is cut or broken."""
    for table in tables:
        out = io.StringIO()
        Console(file=out, width=80).print(terminal(table))
        said = out.getvalue()
        assert max(map(len, said.splitlines())) <= 80
        assert "…" not in said
        names = (*table.columns, *(row.name for row in table.rows))
        cells = (text for row in table.rows for cell in row.cells for text in (cell.value, cell.reported))
        words = {word for text in (*names, *cells) for word in text.split()}
        assert words <= set(said.split())


@pytest.mark.parametrize("name", EVALUATIONS)
def test_every_stored_evaluation_becomes_a_table(name: str) -> None:
    result = read_evaluation(STORED / name)
    table = grid_table(result)
    assert [len(row.cells) for row in table.rows] == [len(result.defenses)] * len(table.rows)
    assert all(f"{100 * share:.1f}" in markdown(table) for share in result.worst_case)
    assert_fits(table, checks_table(result))


@pytest.mark.parametrize("name", REPRODUCTIONS)
def test_every_stored_reproduction_becomes_tables(name: str) -> None:
    run = read_run(STORED / name)
    assert set(run.notes) <= {found.name for found in run.reproductions}
    for panel in (panel for found in run.reproductions for panel in found.panels):
        assert len(markdown(panel_table(panel)).splitlines()) > min(panel.values.shape)
        assert_fits(panel_table(panel))


def test_every_stored_benchmark_becomes_a_section() -> None:
    files = list((STORED / "bench").glob("*.json"))
    assert performance_sections(STORED / "bench").count("\n## ") + 1 == len(files)
    for measured in (BenchResult.read(file).measured for file in files):
        assert_fits(*map(panel_table, measured.panels), *[claims_table(measured.claims)] * bool(measured.claims))


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
def test_list_of_what_can_be_reproduced_fits_the_terminal(scale: Scale) -> None:
    assert_fits(experiments_table(scale))
