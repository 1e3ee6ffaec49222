"""Tables of grids and checks in the terminal, and figures, show the numbers of the result."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import matplotlib.figure
import numpy as np
import pytest
from rich.text import Text

from robustdeq.evaluation import Check, CheckVerdict, GridResult, StateProfile
from robustdeq.reporting import Table, checks_table, grid_table, save_profile_figure
from robustdeq.reporting.terminal import rich_table

PROFILES = {
    "clean": StateProfile([0.2, 0.5, 0.9], [1.0, 0.1, 0.01]),
    "ready-made attack": StateProfile([0.1, 0.4, 0.3], [2.0, 0.5, 0.3]),
}
STANDS = np.array(
    [
        [[1, 1, 1, 0], [1, 0, 1, 0], [0, 0, 0, 1]],
        [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]],
    ],
    dtype=bool,
)
RESULT = GridResult(
    defenses=("final", "early (z_2)"),
    columns=("one", "two", "solver"),
    gradients=("A()", "B()", "C()"),
    beyond_paper=(False, False, True),
    clean=np.ones((2, 4), dtype=bool),
    per_sample=STANDS,
    profiles=PROFILES,
)


def rows(table: Table) -> list[list[str]]:
    columns = rich_table(table).columns
    return [[str(cell) for cell in row] for row in zip(*(column.cells for column in columns), strict=True)]


def test_table_shows_every_number_in_percent_with_its_wilson_interval() -> None:
    none, one, two, three, all_four = (
        "0.0 (0.0–49.0)",
        "25.0 (4.6–69.9)",
        "50.0 (15.0–85.0)",
        "75.0 (30.1–95.4)",
        "100.0 (51.0–100.0)",
    )
    assert rows(grid_table(RESULT, "title")) == [
        ["clean", all_four, all_four],
        ["one", three, two],
        ["two", two, all_four],
        ["solver", one, one],
        ["minimum of the paper's columns", "50.0", "50.0"],
        ["worst case per image, all attacks", none, one],
    ]


def test_attack_on_what_is_left_and_logits_that_are_not_finite_are_marked() -> None:
    result = replace(RESULT, cumulative=(False, False, True), errors=(0, 3))
    table = grid_table(result, "title")
    names = [name for name, *_ in rows(table)]
    assert names[1:4] == ["one", "two", "solver ↓"]
    assert rows(table)[-1] == ["images with logits that are not finite", "0", "3"]
    assert "↓ made on what withstood all attacks above" in table.caption


def test_table_without_columns_of_the_paper_has_no_minimum_of_them() -> None:
    names = [name for name, *_ in rows(grid_table(replace(RESULT, beyond_paper=(True,) * 3), "title"))]
    assert names == ["clean", "one", "two", "solver", "worst case per image, all attacks"]


def test_the_papers_attacks_stand_first() -> None:
    names = [name for name, *_ in rows(grid_table(replace(RESULT, beyond_paper=(False, True, False)), "title"))]
    assert names[1:4] == ["one", "solver", "two"]


def test_caption_says_on_how_many_images() -> None:
    said = ("accuracy in % on 4 images", "in parentheses the Wilson 95 % interval")
    weakest = "underlined the weakest of the paper's attacks"
    assert rich_table(grid_table(RESULT, "title")).caption == "; ".join((*said, weakest))
    assert grid_table(replace(RESULT, beyond_paper=(True,) * 3)).caption == "; ".join(said)


def test_weakest_attack_of_the_paper_is_underlined() -> None:
    columns = rich_table(grid_table(RESULT, "title")).columns[1:]
    underlined = [
        [
            (i, cell.plain[span.start : span.end])
            for i, cell in enumerate(column.cells)
            if isinstance(cell, Text)
            for span in cell.spans
            if span.style == "underline"
        ]
        for column in columns
    ]
    assert underlined == [[(2, "50.0")], [(1, "50.0")]]


def test_table_of_checks_shows_verdicts_and_the_numbers_behind_them() -> None:
    found = (
        Check(
            "comparison",
            CheckVerdict.PASSED,
            "All is well.",
            {"final": {"one": 0.5, "p": 0.01234}, "ensemble": {"p": 1.0}},
        ),
        Check("count", CheckVerdict.FAILED, "Some are not.", {"final": {"images": 3.0}}),
    )
    assert rows(checks_table(replace(RESULT, checks=found))) == [
        ["comparison", "passed", "All is well.\nfinal: one 50.0 %, p 0.012; ensemble: p 1"],
        ["count", "failed", "Some are not.\nfinal: images 3"],
    ]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[matplotlib.figure.Figure]]:
    figures: list[matplotlib.figure.Figure] = []
    save = matplotlib.figure.Figure.savefig

    def keep(figure: matplotlib.figure.Figure, *args: object, **settings: object) -> None:
        figures.append(figure)
        save(figure, *args, **settings)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", keep)
    yield figures


def test_figure_draws_every_profile(drawn: list[matplotlib.figure.Figure], tmp_path: Path) -> None:
    save_profile_figure(RESULT, tmp_path / "profile.png")
    residuals, accuracies = drawn[0].axes
    for line, profile in zip(residuals.lines, PROFILES.values(), strict=True):
        assert list(line.get_ydata()) == profile.residual
    for line, profile in zip(accuracies.lines, PROFILES.values(), strict=True):
        assert list(line.get_ydata()) == [100 * share for share in profile.accuracy]
    assert residuals.get_yscale() == "log"
    assert [text.get_text() for text in accuracies.get_legend().get_texts()] == list(PROFILES)
    assert [label.get_text() for label in accuracies.get_xticklabels()] == ["z₁", "z₂", "final"]


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_suffix_says_the_format(suffix: str, start: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"profile{suffix}"
    save_profile_figure(RESULT, path)
    assert path.read_bytes().startswith(start)
    assert list(tmp_path.iterdir()) == [path]
