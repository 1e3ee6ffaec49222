"""What other tools read from an exported grid is the grid."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from robustdeq.base.errors import InputError
from robustdeq.evaluation import Check, CheckVerdict, GridResult, wilson_interval
from robustdeq.reporting import export, grid_table, latex, long_frame

STANDS = np.random.default_rng(0).random((2, 3, 40)) < np.array([0.9, 0.6, 0.3])[:, None]
RESULT = GridResult(
    defenses=("final", "early (z_2)"),
    columns=("PGD & Co, 100%", "two", "solver_{#1}"),
    gradients=("A()", "B()", "C()"),
    beyond_paper=(False, False, True),
    clean=np.random.default_rng(1).random((2, 40)) < 0.9,
    per_sample=STANDS,
    settings={"attack": {"eps": 8 / 255, "norm": "Linf", "bounds": [0.0, 1.0]}, "early": 2},
)


def test_csv_is_the_summary_table(tmp_path: Path) -> None:
    (path,) = export(RESULT, tmp_path / "grid.csv")
    assert path == tmp_path / "grid.csv"
    pd.testing.assert_frame_equal(pd.read_csv(path, index_col="defense"), RESULT.to_frame())


def test_parquet_holds_every_outcome_and_the_settings(tmp_path: Path) -> None:
    (path,) = export(RESULT, str(tmp_path / "grid.parquet"))
    frame = pd.read_parquet(path)
    assert len(frame) == STANDS.size
    assert frame.attrs == RESULT.settings
    for row in frame.itertuples():
        i, j = RESULT.defenses.index(row.defense), RESULT.columns.index(row.attack)
        assert row.correct == STANDS[i, j, row.sample]
        assert row.correct_clean == RESULT.clean[i, row.sample]
        assert (row.gradient, row.beyond_paper) == (RESULT.gradients[j], RESULT.beyond_paper[j])


def test_parquet_that_is_written_in_parts_is_the_long_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (whole,) = export(RESULT, tmp_path / "whole.parquet")
    monkeypatch.setattr("robustdeq.reporting.formats._ROWS", 1)
    (parts,) = export(RESULT, tmp_path / "parts.parquet")
    assert pq.ParquetFile(parts).num_row_groups == len(RESULT.defenses) * len(RESULT.columns)
    for frame in map(pd.read_parquet, (whole, parts)):
        pd.testing.assert_frame_equal(frame, long_frame(RESULT))
        assert frame.attrs == RESULT.settings


def test_every_number_of_the_grid_follows_from_the_long_form() -> None:
    frame = long_frame(RESULT)
    accuracy = frame.pivot_table("correct", "defense", "attack", observed=True)
    np.testing.assert_allclose(accuracy, RESULT.accuracy)
    stands = (frame["correct"] & frame["correct_clean"]).groupby([frame["defense"], frame["sample"]], observed=True)
    np.testing.assert_allclose(stands.all().groupby("defense", observed=True).mean(), RESULT.worst_case)


def test_markdown_shows_every_number_with_its_interval_and_the_checks(tmp_path: Path) -> None:
    check = Check("zero gradients", CheckVerdict.FAILED, "Half of them vanish.", {"final": {"share": 0.5}})
    marked = replace(RESULT, cumulative=(False, False, True), checks=(check,))
    (path,) = export(marked, tmp_path / "grid.md")
    lines = path.read_text().splitlines()
    rows = {name.strip(" *"): cells for name, *cells in (line.strip("|").split("|") for line in lines if "|" in line)}
    for j, column in enumerate([*RESULT.columns[:2], "solver\\_{#1} ↓"]):
        shown = [re.sub("</?ins>", "", cell.strip()) for cell in rows[column]]
        assert shown == [plain(int(n)) for n in STANDS[:, j].sum(axis=1)]
    assert [cell.strip() for cell in rows["attack"]] == ["final", "early (z\\_2)"]
    assert lines[-1] == "| zero gradients | **failed** | Half of them vanish.<br>final: share 50.0 % |"


def latex_rows(text: str) -> dict[str, list[str]]:
    """The rows of a LaTeX table: its first cell and the others, escapes undone, commands of type size dropped."""
    body = text.split(r"\toprule")[1].split(r"\bottomrule")[0].replace(r"\midrule", "")
    rows = [re.split(r"(?<!\\)&", row) for row in body.split(r"\\")]
    plain = [[re.sub(r"\\([&%$#_{}])", r"\1", cell).strip() for cell in row] for row in rows]
    return {name: cells for name, *cells in plain if name}


def plain(successes: int) -> str:
    low, high = wilson_interval(successes, 40)
    return f"{100 * successes / 40:.1f} ({100 * low:.1f}–{100 * high:.1f})"


def with_interval(successes: int) -> str:
    return re.sub(r"\((.+)–(.+)\)", r"{\\scriptsize (\1--\2)}", plain(successes))


def test_latex_shows_every_number_with_its_interval() -> None:
    rows = latex_rows(latex(grid_table(RESULT), "tab:grid"))
    assert list(rows) == [
        "attack",
        "clean",
        *RESULT.columns,
        "minimum of the paper's columns",
        "worst case per image, all attacks",
    ]
    assert rows["attack"] == list(RESULT.defenses)
    assert rows["clean"] == [with_interval(int(n)) for n in RESULT.clean.sum(axis=1)]
    for j, column in enumerate(RESULT.columns):
        shown = [re.sub(r"\\underline{([\d.]+)}", r"\1", cell) for cell in rows[column]]
        assert shown == [with_interval(int(n)) for n in STANDS[:, j].sum(axis=1)]
    assert rows["minimum of the paper's columns"] == [f"{100 * share:.1f}" for share in RESULT.robustness]
    assert rows["worst case per image, all attacks"] == [with_interval(int(n)) for n in RESULT.standing.sum(axis=1)]


def test_latex_underlines_the_weakest_attack_of_the_paper() -> None:
    rows = latex_rows(latex(grid_table(RESULT), "tab:grid"))
    underlined = [[r"\underline" in cell for cell in rows[column]] for column in RESULT.columns]
    weakest = [[value == low for value, low in zip(row, RESULT.robustness, strict=True)] for row in RESULT.accuracy.T]
    assert underlined == [*weakest[:2], [False, False]]
    assert RESULT.accuracy[0, 2] < RESULT.robustness[0]


def test_latex_caption_names_model_images_attack_and_radius(tmp_path: Path) -> None:
    settings = RESULT.settings | {
        "command": "robustdeq evaluate mine",
        "model": {"class": "MDEQ", "parameters": 4321},
        "data": "cifar10:test, first 40 of 10000",
        "protocol": "strict",
    }
    (path,) = export(replace(RESULT, settings=settings), tmp_path / "grid.tex")
    (caption,) = re.findall(r"\\caption{(.*)}", path.read_text(encoding="utf-8"))
    for said in (
        "mine, MDEQ, 4,321 parameters",
        "cifar10:test, first 40 of",
        r"$\varepsilon$ = 8/255 (L$\infty$)",
        "strict",
    ):
        assert said in caption


SPECIAL = r"[*] 100% & ~ ^ # $ {_} \alpha <|>"


def test_latex_escapes_what_it_would_read_as_a_command() -> None:
    text = latex(grid_table(replace(RESULT, columns=("one", "two", SPECIAL))), "tab:grid")
    (row,) = [line.strip() for line in text.splitlines() if "alpha" in line]
    tilde, caret, backslash = r"\textasciitilde{}", r"\textasciicircum{}", r"\textbackslash{}"
    signs = r"\textless{}\textbar{}\textgreater{}"
    escaped = rf"{{[}}{{*}}] 100\% \& {tilde} {caret} \# \$ \{{\_\}} {backslash}alpha {signs}"
    assert row.startswith(f"{escaped} & ")


def test_latex_closes_what_it_opens(tmp_path: Path) -> None:
    (path,) = export(RESULT, tmp_path / "grid of (all).tex")
    text = path.read_text()
    opened, closed = (re.findall(rf"\\{command}{{(\w+)}}", text) for command in ("begin", "end"))
    assert opened == closed[::-1] == ["table", "tabular"]
    braces = [character for character in re.sub(r"\\.", "", text) if character in "{}"]
    depth = np.cumsum([1 if brace == "{" else -1 for brace in braces])
    assert depth.min() == 0 == depth[-1]
    assert r"\label{tab:grid-of-all}" in text
    assert r"on 40 images" in text
    assert r"\begin{tabular}{lrr}" in text


def test_robustbench_ranks_by_the_worst_case(tmp_path: Path) -> None:
    files = export(RESULT, tmp_path / "deq.robustbench.json")
    assert [file.name for file in files] == ["deq-final.robustbench.json", "deq-early-z_2.robustbench.json"]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    for i, file in enumerate(files):
        entry = json.loads(file.read_text())
        assert float(entry["external"]) == pytest.approx(100 * RESULT.worst_case[i], abs=0.005)
        assert float(entry["clean_acc"]) == pytest.approx(100 * RESULT.clean[i].mean(), abs=0.005)
        assert entry["footnote"].startswith(f"Read-out: {RESULT.defenses[i]}. {entry['external']}% robust accuracy")
        assert "3 attacks on 40 images" in entry["footnote"]
        assert entry["eps"] == "8/255"
        assert "autoattack_acc" not in entry
        assert "unreliable" not in entry
        filled = {"number_forward_passes", "eps", "clean_acc", "external", "footnote"}
        assert {key for key, value in entry.items() if value is not None} == filled
        theirs = {"link", "name", "authors", "additional_data", "dataset", "venue", "architecture", "reported"}
        assert set(entry) == filled | theirs


def test_robustbench_has_a_file_for_each_of_two_defenses_of_like_names(tmp_path: Path) -> None:
    files = export(replace(RESULT, defenses=("final+noise", "final noise")), tmp_path / "deq.robustbench.json")
    assert [file.name for file in files] == ["deq-final-noise.robustbench.json", "deq-final-noise-2.robustbench.json"]
    said = [json.loads(file.read_text())["footnote"].partition(". ")[0] for file in files]
    assert said == ["Read-out: final+noise", "Read-out: final noise"]


@pytest.mark.parametrize(
    ("attack", "shown"),
    [
        ({"eps": 0.25, "norm": "Linf"}, "0.25"),
        ({"eps": 1 / 255, "norm": "Linf"}, "1/255"),
        ({"eps": 1.0, "norm": "L2"}, "1"),
        ({}, None),
    ],
)
def test_robustbench_shows_the_radius_as_it_is_written_there(
    attack: dict[str, object], shown: str | None, tmp_path: Path
) -> None:
    result = replace(RESULT, settings={"attack": attack} if attack else {})
    for file in export(result, tmp_path / "deq.robustbench.json"):
        assert json.loads(file.read_text())["eps"] == shown


@pytest.mark.parametrize("name", ["grid.json", "grid", "grid.xlsx", "robustbench.json"])
def test_unknown_suffix_is_refused_with_the_known_ones(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.csv, \.md, \.parquet, \.tex or \.robustbench\.json\."):
        export(RESULT, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["grid.csv", "grid.parquet", "grid.tex", "grid.robustbench.json"])
def test_export_replaces_what_was_there(name: str, tmp_path: Path) -> None:
    first = [file.read_bytes() for file in export(RESULT, tmp_path / "new" / name)]
    export(replace(RESULT, per_sample=~STANDS), tmp_path / name)
    second = [file.read_bytes() for file in export(RESULT, tmp_path / name)]
    assert second == first
