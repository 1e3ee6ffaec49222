"""The table and the figure show the numbers of the result."""

from collections.abc import Iterator
from pathlib import Path

import matplotlib.figure
import numpy as np
import pytest
from rich.table import Table
from rich.text import Text

from robustdeq.evaluation import GridResult, StateProfile
from robustdeq.reporting import grid_table, save_profile_figure

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
    return [[str(cell) for cell in row] for row in zip(*(column.cells for column in table.columns), strict=True)]


def test_table_shows_every_number_in_percent() -> None:
    shown = rows(grid_table(RESULT, "title"))
    assert shown[:-2] == [
        ["clean", "100.0", "100.0"],
        ["one", "75.0", "50.0"],
        ["two", "50.0", "100.0"],
        ["solver", "25.0", "25.0"],
        ["minimum of the paper's columns", "50.0", "50.0"],
    ]


def test_worst_case_is_shown_with_its_interval() -> None:
    *_, worst, interval = rows(grid_table(RESULT, "title"))
    assert worst[1:] == [f"{100 * share:.1f}" for share in RESULT.worst_case]
    assert interval[1:] == [f"{100 * low:.1f}–{100 * high:.1f}" for low, high in RESULT.worst_case_intervals]


def test_caption_says_on_how_many_images() -> None:
    assert grid_table(RESULT, "title").caption == "accuracy in % on 4 images"


def test_weakest_attack_of_the_paper_is_underlined() -> None:
    columns = list(grid_table(RESULT, "title").columns)[1:]
    underlined = [
        [i for i, cell in enumerate(column.cells) if isinstance(cell, Text) and cell.style == "underline"]
        for column in columns
    ]
    assert underlined == [[2], [1]]


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
    assert [label.get_text() for label in accuracies.get_xticklabels()] == ["$z_{1}$", "$z_{2}$", "final"]


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_suffix_says_the_format(suffix: str, start: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"profile{suffix}"
    save_profile_figure(RESULT, path)
    assert path.read_bytes().startswith(start)
    assert list(tmp_path.iterdir()) == [path]
