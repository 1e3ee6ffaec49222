"""Every result in the repository can be read and shown."""

from pathlib import Path

import pytest

from robustdeq.reporting import grid_table, markdown, panel_table, performance_sections, read_evaluation, read_run

STORED = Path(__file__).parents[2] / "results"
EVALUATIONS = sorted(path.parent.name for path in STORED.glob("*/results.json"))
REPRODUCTIONS = sorted(path.name for path in STORED.glob("reproduction-*"))


@pytest.mark.parametrize("name", EVALUATIONS)
def test_every_stored_evaluation_becomes_a_table(name: str) -> None:
    result = read_evaluation(STORED / name)
    table = grid_table(result)
    assert [len(row.cells) for row in table.rows] == [len(result.defenses)] * len(table.rows)
    assert all(f"{100 * share:.1f}" in markdown(table) for share in result.worst_case)


@pytest.mark.parametrize("name", REPRODUCTIONS)
def test_every_stored_reproduction_becomes_tables(name: str) -> None:
    run = read_run(STORED / name)
    assert set(run.notes) <= {found.name for found in run.reproductions}
    for panel in (panel for found in run.reproductions for panel in found.panels):
        assert len(markdown(panel_table(panel)).splitlines()) > min(panel.values.shape)


def test_every_stored_benchmark_becomes_a_section() -> None:
    sections = performance_sections(STORED / "bench")
    assert sections.count("\n## ") + 1 == len(list((STORED / "bench").glob("*.json")))
