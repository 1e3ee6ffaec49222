"""A grid in the formats of other tools; the suffix of the file says which.

`.csv` is the summary table, a row per defense; `.md` and `.tex` show it with a row per attack (Markdown, LaTeX).
`.parquet` is the long form, a row per defense × attack × sample. `.robustbench.json` is an entry of the RobustBench
leaderboard (Croce et al., NeurIPS Datasets and Benchmarks 2021) for each defense.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from robustdeq.base.errors import InputError
from robustdeq.base.files import replace_with, write_text
from robustdeq.evaluation import GridResult
from robustdeq.reporting.latex import latex
from robustdeq.reporting.markdown import markdown
from robustdeq.reporting.settings import subject
from robustdeq.reporting.tabulation import checks_table, grid_table
from robustdeq.reporting.wording import radius, slug, slugs


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
    match next((suffix for suffix in _SUFFIXES if path.name.endswith(suffix)), None):
        case ".csv":
            write_text(path, result.to_csv())
        case ".md":
            tables = [grid_table(result)] + [checks_table(result)] * bool(result.checks)
            write_text(path, "\n".join(map(markdown, tables)))
        case ".parquet":
            replace_with(path, lambda temporary: _write_long(result, temporary))
        case ".tex":
            write_text(path, latex(grid_table(result, subject(result.settings)), f"tab:{slug(path.stem)}"))
        case ".robustbench.json" as suffix:
            start = path.name.removesuffix(suffix)
            entries = robustbench_entries(result)
            files = [path.with_name(f"{start}-{name}{suffix}") for name in slugs(entries)]
            for file, entry in zip(files, entries.values(), strict=True):
                write_text(file, json.dumps(entry, indent=2) + "\n")
            return files
        case _:
            *most, last = _SUFFIXES
            known = f"{', '.join(most)} or {last}"
            raise InputError(f"{path} has no suffix of a known format; give a file that ends in {known}.")
    return [path]


_SUFFIXES = (".csv", ".md", ".parquet", ".tex", ".robustbench.json")


def long_frame(result: GridResult) -> pd.DataFrame:
    """One row per defense × attack × sample, from which every number of the grid can be computed again.

    Args:
        result: the grid.

    Returns:
        The columns `defense` and `attack` (categories in the order of the grid), `sample` (from 0), `gradient`,
        `beyond_paper`, `cumulative`, `correct_clean` and `correct` (under the attack). The settings of the grid are its
        `attrs`.
    """
    frame = pd.concat(_parts(result), ignore_index=True)
    frame.attrs.update(result.settings)
    return frame


_ROWS = 250_000


def _write_long(result: GridResult, path: Path) -> None:
    """Write `long_frame` part by part, so that it is never in memory as a whole."""
    tables = (pa.Table.from_pandas(part, preserve_index=False) for part in _parts(result))
    first = next(tables)
    schema = first.schema.with_metadata(first.schema.metadata | {"PANDAS_ATTRS": json.dumps(result.settings)})
    with pq.ParquetWriter(path, schema) as writer:
        for table in chain([first], tables):
            writer.write_table(table.replace_schema_metadata(schema.metadata))


def _parts(result: GridResult) -> Iterator[pd.DataFrame]:
    """The rows of `long_frame` in order: those of one defense under a few attacks at a time."""
    samples = result.clean.shape[1]
    whole, block = len(result.columns), max(_ROWS // samples, 1)
    for defense in range(len(result.defenses)):
        for attacks in (range(whole)[start : start + block] for start in range(0, whole, block)):
            attack, sample = np.repeat(attacks, samples), np.tile(np.arange(samples), len(attacks))
            yield pd.DataFrame(
                {
                    "defense": pd.Categorical.from_codes(np.full(len(sample), defense), list(result.defenses)),
                    "attack": pd.Categorical.from_codes(attack, list(result.columns)),
                    "sample": sample,
                    "gradient": np.asarray(result.gradients, dtype=object)[attack],
                    "beyond_paper": np.asarray(result.beyond_paper)[attack],
                    "cumulative": np.asarray(result.cumulative or (False,) * whole)[attack],
                    "correct_clean": result.clean[defense, sample],
                    "correct": result.per_sample[defense, attack, sample],
                }
            )


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
    entries = {}
    for i, defense in enumerate(result.defenses):
        worst = f"{100 * result.worst_case[i]:.2f}"
        low, high = (f"{100 * end:.1f}" for end in result.worst_case_intervals[i])
        entries[defense] = dict.fromkeys(_AUTHORS) | {
            "number_forward_passes": 1,
            "eps": radius(result.settings.get("attack", {})) or None,
            "clean_acc": f"{100 * result.clean[i].mean():.2f}",
            "external": worst,
            "footnote": f"Read-out: {defense}. {worst}% robust accuracy is due to robustdeq: the worst case per image "
            f"over {len(result.columns)} attacks on {result.clean.shape[1]} images (95% interval {low} to {high}%)."
            + (_certified(result) if i == 0 else ""),
        }
    return entries


def _certified(result: GridResult) -> str:
    """A sentence on what is certified of the first row; empty where nothing is."""
    if result.certified is None:
        return ""
    return f" Certified robust accuracy: {100 * result.certified.mean():.2f}% ({result.certificate})."


_AUTHORS = ("link", "name", "authors", "additional_data", "dataset", "venue", "architecture", "reported")
