"""Panels as tables, documents and pictures hold the numbers of the panel, the paper's beside ours."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from rich.console import Console

from robustdeq.base.errors import InputError
from robustdeq.reporting import (
    ReportedRun,
    is_report,
    latex,
    markdown,
    panel_table,
    reproduction_index,
    reproduction_latex,
    reproduction_pages,
    save_document,
    save_drawing,
    terminal,
)
from robustdeq.reporting.wording import number, span
from robustdeq.study import Drawing, Finding, Panel, Reproduction

VALUES = np.array([[12.345, 0.5], [np.nan, 1234.5]])
PANEL = Panel(
    "robust & small_ε",
    "%",
    ("row_1", "b | c"),
    ("z_1", "final"),
    VALUES,
    row_axis="Defense",
    low=VALUES - 0.25,
    high=VALUES + 0.25,
    paper=np.array([[47.12, np.nan], [np.nan, np.nan]]),
)
WIDE = Panel("wide", "", ("r",), tuple(f"a long heading {i}" for i in range(5)), np.arange(5.0)[None])


@pytest.mark.parametrize(
    ("value", "logarithmic", "shown"),
    [
        (0.0, False, "0"),
        (0.126, False, "0.13"),
        (-0.5, False, "-0.50"),
        (47.12, False, "47.1"),
        (1234.5, False, "1,234"),
        (np.nan, False, "–"),
        (np.inf, True, "–"),
        (0.000123, True, "0.00012"),
        (3.456, True, "3.5"),
    ],
)
def test_number_is_as_long_as_it_needs_to_be(value: float, logarithmic: bool, shown: str) -> None:
    assert number(value, logarithmic) == shown


def printed(panel: Panel, width: int = 80) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(terminal(panel_table(panel)))
    return console.export_text()


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [(4.6, 69.9, "4.6–69.9"), (-1.0, 2.0, "-1.0 to 2.0"), (0.0, 1.0, "0–1.0"), (np.nan, 1.0, ""), (0.0, np.inf, "")],
)
def test_ends_of_an_interval_are_told_apart_from_a_minus(low: float, high: float, shown: str) -> None:
    assert span(low, high) == shown


def test_terminal_shows_value_interval_and_the_papers_number_together() -> None:
    text = printed(PANEL)
    assert re.search(r"row_1 +12\.3 \(12\.1–12\.6\) / 47\.1 +0\.50 \(0\.25–0\.75\)", text)
    said = " ".join(text.split())
    assert "in %; in parentheses the 95 % interval; after a stroke the paper's number" in said


@pytest.mark.parametrize(("columns", "with_intervals"), [(5, True), (6, False)])
def test_terminal_sets_the_parts_below_each_other_where_there_are_many_columns(
    columns: int, with_intervals: bool
) -> None:
    values = np.full((8, columns), 50.0)
    names = tuple(f"row {i}" for i in range(8)), tuple(f"z_{n}" for n in range(columns))
    panel = Panel("many", "%", *names, values, low=values - 1, high=values + 1, paper=values + 2)
    lines = printed(panel).splitlines()
    first = next(i for i, line in enumerate(lines) if "row 0" in line)
    parts = [["row", "0", *["50.0"] * columns], *[["(49.0–51.0)"] * columns] * with_intervals, ["/", "52.0"] * columns]
    assert [line.split() for line in lines[first : first + len(parts)]] == parts


def test_table_lies_on_its_side_where_its_headings_are_long() -> None:
    text = printed(WIDE)
    for i in range(5):
        assert re.search(rf"a long heading {i} +{i}(\.0)?\b", text)
    assert max(map(len, text.splitlines())) <= 80


def test_markdown_has_every_cell_and_escapes_what_would_break_it() -> None:
    title, _, head, rule, first, second, _, caption = markdown(panel_table(PANEL)).strip().splitlines()
    assert title == "**robust & small\\_ε**"
    assert caption == "*in %; in parentheses the 95 % interval; after a stroke the paper's number.*"
    assert head == "| Defense | z\\_1 | final |"
    assert rule == "|---|--:|--:|"
    assert first == "| row\\_1 | 12.3 (12.1–12.6) / *47.1* | 0.50 (0.25–0.75) |"
    assert second == "| b \\| c | – | 1,234 (1,234–1,235) |"


def test_markdown_lies_on_its_side_where_it_is_very_wide() -> None:
    values = np.arange(32.0).reshape(2, 16)
    panel = Panel("wide", "", ("a", "b"), tuple(f"u_{n}" for n in range(16)), values, column_axis="Adjoint state")
    _, _, head, rule, *lines = markdown(panel_table(panel)).strip().splitlines()
    assert (head, rule) == ("| Adjoint state | a | b |", "|---|--:|--:|")
    assert lines == [f"| u\\_{n} | {number(n)} | {number(16 + n)} |" for n in range(16)]


def test_latex_is_a_table_that_escapes_what_would_break_it() -> None:
    text = latex(panel_table(PANEL), "tab:x")
    assert r"robust \& small\_$\varepsilon$; in \%" in text
    assert r"row\_1 & 12.3 {\scriptsize (12.1--12.6)} / 47.1 & 0.50 {\scriptsize (0.25--0.75)} \\" in text
    assert r"\label{tab:x}" in text
    assert text.count(r"\begin{tabular}{lrr}") == text.count(r"\end{tabular}") == 1
    two = reproduction_latex(Reproduction("fig", "Fig. 9", "t", (PANEL, WIDE)))
    assert r"\label{tab:fig-1}" in two
    assert r"\label{tab:fig-2}" in two


def test_latex_captions_of_a_reproduction_name_model_images_and_attack() -> None:
    provenance = {
        "scale": "nano",
        "trained_on": "digits, 1197",
        "data": "digits, 400",
        "attack": "PGD(eps=0.03137254901960784, step_size=0.00784313725490196, steps=10, norm='Linf')",
    }
    text = reproduction_latex(Reproduction("fig", "Fig. 9", "t", (PANEL, WIDE), provenance=provenance))
    captions = re.findall(r"\\caption{(.*)}", text)
    assert len(captions) == 2
    for caption in captions:
        for said in (
            "nano",
            "digits, 1197",
            "digits, 400",
            r"$\varepsilon$ = 8/255 (L$\infty$)",
            "PGD of 10 steps of 2/255",
        ):
            assert said in caption


STORED = sorted((Path(__file__).parents[2] / "results").glob("reproduction-*/*.json"))
LONG = "a name of many words that goes on and on " * 3


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *args: object, **settings: object) -> None:
        save(figure, *args, **settings)
        figures.append(figure)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def assert_nothing_is_cropped(figure: Figure) -> None:
    """All that is drawn, letters included, is within the picture."""
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert drawn.x0 >= 0 and drawn.x1 <= width
    assert drawn.y0 >= 0 and drawn.y1 <= height


@pytest.mark.parametrize("suffix", ["svg", "pdf", "png"])
@pytest.mark.parametrize("drawing", Drawing)
def test_no_word_of_a_figure_is_cropped(drawing: Drawing, suffix: str, drawn: list[Figure], tmp_path: Path) -> None:
    values = np.arange(15.0).reshape(3, 5) + 1
    columns = tuple(f"{i}: {LONG}"[:40] for i in range(5))
    rows = tuple(f"{i}: {LONG}"[:60] for i in range(3))
    panel = Panel(LONG, "%", rows, columns, values, "rows", "columns", drawing=drawing)
    for panels in ((panel,), (panel, panel)):
        save_drawing(Reproduction("n", "Table 1", LONG, panels), tmp_path / f"p.{suffix}")
        assert_nothing_is_cropped(drawn[-1])


@pytest.mark.parametrize("path", [path for path in STORED if path.stem == "table1"], ids=lambda path: path.parent.name)
def test_no_word_of_table_1_is_cropped(path: Path, drawn: list[Figure], tmp_path: Path) -> None:
    save_drawing(Reproduction.read(path), tmp_path / "p.svg")
    assert_nothing_is_cropped(drawn[-1])


@pytest.mark.slow
@pytest.mark.parametrize("path", STORED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_no_word_of_a_stored_figure_is_cropped(path: Path, drawn: list[Figure], tmp_path: Path) -> None:
    save_drawing(Reproduction.read(path), tmp_path / "p.svg")
    assert_nothing_is_cropped(drawn[-1])


@pytest.mark.parametrize("drawing", Drawing)
@pytest.mark.parametrize("suffix", ["svg", "pdf", "png"])
def test_picture_of_every_kind_is_written_in_every_format(drawing: Drawing, suffix: str, tmp_path: Path) -> None:
    panel = Panel(
        "title", "unit", ("first", "second"), ("z_1", "z_2", "u_3"), np.array([[1.0, 2.0, 3.0], [0.5, np.nan, 30.0]]),
        drawing=drawing, logarithmic=drawing is not Drawing.BARS,
    )  # fmt: skip
    path = tmp_path / f"p.{suffix}"
    save_drawing(Reproduction("n", "Fig. 9", "about", (panel, PANEL, WIDE)), path)
    start = path.read_bytes()[:8]
    assert start.startswith({"svg": b"<?xml", "pdf": b"%PDF", "png": b"\x89PNG"}[suffix])
    if suffix == "svg":
        words = "".join(ET.parse(path).getroot().itertext())
        for expected in (
            "Fig. 9: about",
            "title",
            {Drawing.HEATMAP: "30", Drawing.SCATTER: "z₂"}.get(drawing, "first"),
            "robust & small",
        ):
            assert expected in words


@pytest.mark.parametrize("suffix", [".svg", ".pdf", ".png"])
def test_the_same_picture_is_the_same_file(suffix: str, tmp_path: Path) -> None:
    found = Reproduction("table2", "Table 2", "a title", (PANEL,))
    for name in ("first", "second"):
        save_drawing(found, tmp_path / f"{name}{suffix}")
    assert (tmp_path / f"first{suffix}").read_bytes() == (tmp_path / f"second{suffix}").read_bytes()


def test_document_holds_tables_figures_notes_and_sources(tmp_path: Path) -> None:
    provenance = {"command": "robustdeq reproduce a | b", "images": 4, "max_steps": None}
    fig = Reproduction("fig4", "Fig. 4", "alignment", (PANEL,), "u follows z.", provenance)
    table = Reproduction("table1", "Table 1", "few steps", (WIDE,))
    run = ReportedRun("mine", None, None, None, (fig, table), {"fig4": "Ours is smaller."})
    path = tmp_path / "docs" / "reproduction.md"
    save_document([run], path)
    text = path.read_text()
    assert text.index("## Table 1: few steps") < text.index("## Fig. 4: alignment")
    for expected in ("What the paper says: u follows z.", "Ours is smaller.", markdown(panel_table(PANEL)).strip()):
        assert expected in text
    assert "| command | `robustdeq reproduce a ¦ b` |" in text
    assert "max_steps" not in text
    for name in ("fig4", "table1"):
        assert f"(reproduction/{name}.svg)" in text
        assert (tmp_path / "docs" / "reproduction" / f"{name}.svg").is_file()
    assert is_report(path)
    save_document([run, run], path)
    assert "(reproduction/mine-fig4.svg)" in path.read_text()
    assert path.read_text().count("## Fig. 4: alignment") == 1
    others = [replace(run, name="ours and théirs", notes={"fig4": note}) for note in ("One.", "Another.")]
    save_document(others, path)
    shown = re.findall(r"\((reproduction/[^() ]*fig4\.svg)\)", path.read_text())
    assert len(set(shown)) == 2
    assert all((path.parent / picture).is_file() for picture in shown)
    with pytest.raises(InputError, match="the folders hold no reproductions"):
        save_document([ReportedRun("none", None, None, None, ())], path)


def finding(name: str, low: float, scale: str, *shown: str) -> Finding:
    return Finding(name, f"{name} hurts.", "§6", low + 1, low, low + 2, "points", 0.001, 3, 400, scale, shown)


def test_index_names_the_claims_and_counts_what_became_of_those_that_a_table_shows(tmp_path: Path) -> None:
    findings = (
        finding("a", 1, "nano", "table2", "table3"),
        finding("b", -9, "nano", "table2"),
        finding("c", 1, "nano", "table2"),
    )
    claims = Reproduction("claims", "The paper's text", "all claims", (PANEL,), findings=findings)
    tables = [Reproduction(f"table{i}", f"Table {i}", "attacks", (PANEL,), "", {"scale": "nano"}) for i in (2, 3, 6)]
    other = Reproduction("table2", "Table 2", "attacks", (WIDE,), "", {"scale": "tiny", "images": 7})
    runs = [
        ReportedRun("mine", None, None, None, (*tables, claims)),
        ReportedRun("theirs", None, None, None, (other,), {"table2": "Theirs is wide."}),
    ]
    index = reproduction_index(runs)
    assert all(f"{name} hurts." in index for name in "abc")
    rows = {line.split("](")[1].split(")")[0]: line for line in index.splitlines() if "](" in line}
    assert list(rows) == ["table2.md", "table3.md", "table6.md", "claims.md"]
    assert "nano: 2 × holds, 1 × reversed" in rows["table2.md"]
    assert "tiny (7 images)" in rows["table2.md"]
    assert "nano: 1 × holds" in rows["table3.md"]
    assert "holds" not in rows["table6.md"]
    pages = reproduction_pages(runs, tmp_path / "figures")
    assert list(pages) == ["table2", "table3", "table6", "claims"]
    page = pages["table2"]
    assert page.startswith("# Table 2: attacks\n")
    assert page.index("## Scale nano") < page.index("## Scale tiny") < page.index("Theirs is wide.")
    assert all(f"(figures/{name}-table2.svg)" in page for name in ("mine", "theirs"))
    assert "## Scale" not in pages["table3"]
    assert (tmp_path / "figures" / "theirs-table2.svg").is_file()


def test_file_of_someone_else_is_no_report(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("# Reproduction\nmine")
    (tmp_path / "binary.html").write_bytes(b"\xff\xfe\x00")
    assert not any(is_report(tmp_path / name) for name in ("notes.md", "binary.html", "missing.html"))
