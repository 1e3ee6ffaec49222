"""A grid in the formats of other tools; the suffix of the file says which.

`.csv` is the summary table, a row per defense; `.md` shows it with a row per attack. `.parquet` is the long form, a row
per defense × attack × sample. `.tex` is a table of LaTeX's booktabs. `.robustbench.json` is an entry of the RobustBench
leaderboard (Croce et al., NeurIPS Datasets and Benchmarks 2021) for each defense.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from robustdeq.base.errors import InputError
from robustdeq.base.files import replace_with, write_text
from robustdeq.base.statistics import wilson_intervals
from robustdeq.evaluation import GridResult

_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "[": "{[}", "*": "{*}"}
)


def long_frame(result: GridResult) -> pd.DataFrame:
    """One row per defense × attack × sample, from which every number of the grid can be computed again.

    Args:
        result: the grid.

    Returns:
        The columns `defense` and `attack` (categories in the order of the grid), `sample` (from 0), `gradient`,
        `beyond_paper`, `cumulative`, `correct_clean` and `correct` (under the attack). The settings of the grid are its
        `attrs`.
    """
    defense, attack, sample = (index.ravel() for index in np.indices(result.per_sample.shape))
    frame = pd.DataFrame(
        {
            "defense": pd.Categorical.from_codes(defense, categories=list(result.defenses)),
            "attack": pd.Categorical.from_codes(attack, categories=list(result.columns)),
            "sample": sample,
            "gradient": np.asarray(result.gradients)[attack],
            "beyond_paper": np.asarray(result.beyond_paper)[attack],
            "cumulative": np.asarray(result.cumulative or (False,) * len(result.columns))[attack],
            "correct_clean": result.clean[defense, sample],
            "correct": result.per_sample.ravel(),
        }
    )
    frame.attrs.update(result.settings)
    return frame


def latex_table(result: GridResult, label: str) -> str:
    r"""The defense × attack table for a paper, in percent with Wilson 95 % intervals: a row per attack.

    The weakest of the paper's attacks against each defense is underlined; below the attacks stand the paper's measure
    (the minimum) and the per-sample worst case over everything. The document needs `\usepackage{booktabs}`.

    Args:
        result: the grid.
        label: what `\ref` calls the table.
    """

    def row(name: str, cells: list[str]) -> str:
        return " & ".join([f"    {name}", *cells]) + r" \\"

    def cells(shares: np.ndarray, intervals: np.ndarray, underlined: np.ndarray | None = None) -> list[str]:
        values = [f"{100 * share:.1f}" for share in shares]
        if underlined is not None:
            values = [rf"\underline{{{v}}}" if weak else v for v, weak in zip(values, underlined, strict=True)]
        ends = [rf"{{\footnotesize [{100 * low:.1f}, {100 * high:.1f}]}}" for low, high in intervals]
        return [f"{value} {interval}" for value, interval in zip(values, ends, strict=True)]

    def attacks(beyond_paper: bool) -> list[str]:
        return [
            row(
                column.translate(_LATEX) + r" $\downarrow$" * bool(result.cumulative and result.cumulative[j]),
                cells(
                    result.accuracy[:, j],
                    result.intervals[:, j],
                    None if beyond_paper else result.accuracy[:, j] == result.robustness,
                ),
            )
            for j, column in enumerate(result.columns)
            if result.beyond_paper[j] == beyond_paper
        ]

    cumulative = ""
    if any(result.cumulative):
        cumulative = r" $\downarrow$: made on what withstood all attacks above, which it includes."
    summary = [
        row("minimum of the paper's attacks", [f"{100 * share:.1f}" for share in result.robustness]),
        row("worst case per image, all attacks", cells(result.worst_case, result.worst_case_intervals)),
    ]
    clean = row("clean", cells(result.clean.mean(axis=1), wilson_intervals(result.clean)))
    blocks = [[clean], attacks(beyond_paper=False), attacks(beyond_paper=True), summary]
    body = "\n    \\midrule\n".join("\n".join(block) for block in blocks if block)
    return rf"""\begin{{table}}
  \centering
  \caption{{Accuracy in \% on {result.clean.shape[1]} images, with its Wilson 95\,\% interval. The weakest of the
    paper's attacks against each defense is underlined; in the worst case an image counts only if it is classified
    correctly clean and under every attack.{cumulative}}}
  \label{{{label}}}
  \begin{{tabular}}{{l{"r" * len(result.defenses)}}}
    \toprule
{row("attack", [defense.translate(_LATEX) for defense in result.defenses])}
    \midrule
{body}
    \bottomrule
  \end{{tabular}}
\end{{table}}
"""


def markdown_table(result: GridResult) -> str:
    """The defense × attack table in percent with Wilson 95 % intervals, and the checks below it, in Markdown.

    Args:
        result: the grid.
    """

    def cells(shares: np.ndarray, intervals: np.ndarray) -> str:
        parts = zip(shares, intervals, strict=True)
        return " | ".join(f"{100 * share:.1f} ({100 * low:.1f}–{100 * high:.1f})" for share, (low, high) in parts)

    lines = ["| attack | " + " | ".join(result.defenses) + " |", "|---|" + "--:|" * len(result.defenses)]
    lines.append(f"| **clean** | {cells(result.clean.mean(axis=1), wilson_intervals(result.clean))} |")
    for j, column in enumerate(result.columns):
        mark = " ↓" * bool(result.cumulative and result.cumulative[j])
        lines.append(f"| {column}{mark} | {cells(result.accuracy[:, j], result.intervals[:, j])} |")
    if not all(result.beyond_paper):
        minimum = " | ".join(f"{100 * share:.1f}" for share in result.robustness)
        lines.append(f"| **minimum of the paper's columns** | {minimum} |")
    worst = cells(result.worst_case, result.worst_case_intervals)
    lines.append(f"| **worst case per image, all columns** | {worst} |")
    checks = [
        f"- {check.name}: **{'passed' if check.passed else 'failed'}**. {check.sentence}" for check in result.checks
    ]
    return "\n".join(lines + [""] * bool(checks) + checks) + "\n"


def robustbench_entries(result: GridResult) -> dict[str, dict[str, Any]]:
    """An entry of the RobustBench leaderboard for each defense, accuracies in percent as strings.

    `external`, the best known robust accuracy, by which the leaderboard ranks, is the worst case per image over all
    attacks; the footnote says so. `autoattack_acc` is left out: it is what RobustBench's own `benchmark(...,
    to_disk=True)` measures and adds to the file. `unreliable` is left out too, which the leaderboard shows as unknown.
    What a grid cannot know (`link`, `name`, `authors`, `additional_data`, `dataset`, `venue`, `architecture`,
    `reported`) is null and left to the author, as is ε where the settings lack it.

    Args:
        result: the grid.

    Returns:
        The name of each defense and its entry.

    Source: https://github.com/RobustBench/robustbench, `model_info` and `robustbench/utils.py` (`ModelInfo`).
    """
    samples = result.clean.shape[1]
    entries = {}
    for i, defense in enumerate(result.defenses):
        worst = f"{100 * result.worst_case[i]:.2f}"
        low, high = (f"{100 * end:.1f}" for end in result.worst_case_intervals[i])
        entries[defense] = {
            "link": None,
            "name": None,
            "authors": None,
            "additional_data": None,
            "number_forward_passes": 1,
            "dataset": None,
            "venue": None,
            "architecture": None,
            "eps": _radius(result.settings.get("attack", {})),
            "clean_acc": f"{100 * result.clean[i].mean():.2f}",
            "reported": None,
            "external": worst,
            "footnote": f"Read-out: {defense}. {worst}% robust accuracy is due to robustdeq: the worst case per image "
            f"over {len(result.columns)} attacks on {samples} images (95% interval {low} to {high}%).",
        }
    return entries


def export(result: GridResult, path: str | Path) -> list[Path]:
    """Write a grid for another tool, each file whole or not at all.

    Args:
        result: the grid.
        path: the file; its suffix, `.csv`, `.md`, `.parquet`, `.tex` or `.robustbench.json`, says the format. The files
            of RobustBench hold one model each: `name.robustbench.json` becomes `name-<defense>.robustbench.json`.

    Returns:
        The files that were written.

    Raises:
        InputError: there is no format with this suffix.
    """
    path = Path(path)
    for suffix, write in FORMATS.items():
        if path.name.endswith(suffix):
            return write(result, path)
    *most, last = FORMATS
    raise InputError(f"{path} has no suffix of a known format; give a file that ends in {', '.join(most)} or {last}.")


def _write_csv(result: GridResult, path: Path) -> list[Path]:
    write_text(path, result.to_frame().to_csv())
    return [path]


def _write_markdown(result: GridResult, path: Path) -> list[Path]:
    write_text(path, markdown_table(result))
    return [path]


def _write_parquet(result: GridResult, path: Path) -> list[Path]:
    frame = long_frame(result)
    replace_with(path, lambda temporary: frame.to_parquet(temporary, index=False))
    return [path]


def _write_latex(result: GridResult, path: Path) -> list[Path]:
    write_text(path, latex_table(result, f"tab:{_slug(path.stem)}"))
    return [path]


def _write_robustbench(result: GridResult, path: Path) -> list[Path]:
    written = []
    for defense, entry in robustbench_entries(result).items():
        name = f"{path.name.removesuffix(_ROBUSTBENCH)}-{_slug(defense)}{_ROBUSTBENCH}"
        write_text(path.with_name(name), json.dumps(entry, indent=2) + "\n")
        written.append(path.with_name(name))
    return written


_ROBUSTBENCH = ".robustbench.json"
FORMATS: dict[str, Callable[[GridResult, Path], list[Path]]] = {
    ".csv": _write_csv,
    ".md": _write_markdown,
    ".parquet": _write_parquet,
    ".tex": _write_latex,
    _ROBUSTBENCH: _write_robustbench,
}


def _slug(name: str) -> str:
    """The name with nothing that a file name or a LaTeX label minds."""
    return re.sub(r"[^0-9A-Za-z_.]+", "-", name).strip("-")


def _radius(attack: dict[str, Any]) -> str | None:
    """ε as RobustBench writes it: "8/255" where it is a whole number of 8-bit levels."""
    eps = attack.get("eps")
    if eps is None:
        return None
    levels = 255 * eps
    whole = attack.get("norm") == "Linf" and abs(levels - round(levels)) < 1e-6
    return f"{round(levels)}/255" if whole else f"{eps:g}"
