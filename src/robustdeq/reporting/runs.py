"""Folders of results, read for the report: an evaluation, its exhibits, and the reproductions beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from robustdeq.base.errors import InputError, require
from robustdeq.base.plain import read_json
from robustdeq.evaluation import Check, GridResult, Store, assemble
from robustdeq.evaluation.bracket import AGREEMENT
from robustdeq.evaluation.exhibits import FILE as EXHIBITS
from robustdeq.evaluation.exhibits import Exhibits
from robustdeq.evaluation.store import FILE as STORE
from robustdeq.evaluation.store import MANIFEST, parsed
from robustdeq.study import Panel, Reproduction
from robustdeq.study.panel import accuracies

_RESULTS = "results.json"
MARKS = {
    "page": '<meta name="generator" content="robustdeq',
    "report": "<!-- made by robustdeq report -->",
    "bench": "<!-- made by robustdeq bench -->",
}
"""What the pages and documents of this package begin with."""
_OTHERS = {_RESULTS, MANIFEST, "run.json", "training.json", "certified.json"}


@dataclass(frozen=True, eq=False)
class ReportedRun:
    """What one folder holds.

    Attributes:
        name: of the folder.
        result: the defense × attack table, where there is an evaluation.
        exhibits: a few images, attacked, where the evaluation kept some.
        alignment: accuracy of every state under attacks on every adjoint state (Fig. 4), where it was measured.
        reproductions: tables and figures of the paper.
        notes: what we say of them, by name: the text of NAME.md beside NAME.json.
    """

    name: str
    result: GridResult | None
    exhibits: Exhibits | None
    alignment: Panel | None
    reproductions: tuple[Reproduction, ...]
    notes: Mapping[str, str] = field(default_factory=dict)


def read_run(folder: str | Path) -> ReportedRun:
    """Read everything in a folder that a report shows.

    Args:
        folder: of an evaluation, of reproductions, or of both.

    Raises:
        InputError: there is no such folder, it holds no results, its evaluation is not finished, or a file is damaged.
    """
    folder = Path(folder)
    require(folder.is_dir(), f"{folder} is no folder; give one that `robustdeq evaluate` or `reproduce` wrote.")
    evaluated = any((folder / name).is_file() for name in (STORE, _RESULTS))
    result, alignment = _evaluation(folder) if evaluated else (None, None)
    exhibits = Exhibits.read(folder / EXHIBITS) if (folder / EXHIBITS).is_file() else None
    foreign = set(folder.glob("*.robustbench.json"))
    paths = sorted(path for path in {*folder.glob("*.json")} - foreign if path.name not in _OTHERS)
    reproductions = tuple(map(Reproduction.read, paths))
    if result is None and exhibits is None and not reproductions:
        raise InputError(f"{folder} holds no results; give a folder that `robustdeq evaluate` or `reproduce` wrote.")
    notes = {path.stem: path.with_suffix(".md") for path in paths}
    said = {name: _note(note) for name, note in notes.items() if note.is_file()}
    return ReportedRun(folder.resolve().name, result, exhibits, alignment, reproductions, said)


def _note(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except ValueError as error:
        raise InputError(f"{path} is not UTF-8; save it as that.") from error


def read_evaluation(folder: str | Path) -> GridResult:
    """The table of an evaluation, from its store, or where there is none from its `results.json`.

    Args:
        folder: of the evaluation.

    Raises:
        InputError: there is neither, the evaluation is not finished, or a file is damaged.
    """
    folder = Path(folder)
    stored = folder / _RESULTS
    if not (folder / STORE).is_file() and stored.is_file():
        return GridResult.read(stored)
    with Store.read(folder / STORE) as store:
        result = assemble(store)
    return _completed(result, stored) if stored.is_file() else result


def _evaluation(folder: Path) -> tuple[GridResult, Panel | None]:
    try:
        result = read_evaluation(folder)
        if not (folder / STORE).is_file():
            return result, None
        with Store.read(folder / STORE) as store:
            return result, _alignment(store)
    except InputError as error:
        raise InputError(f"{folder} cannot be reported yet: {error}") from error
    except KeyError as error:
        raise InputError(f"{folder} was written by another version of robustdeq; evaluate again.") from error


def _completed(result: GridResult, path: Path) -> GridResult:
    """The table with what its store does not hold: where it comes from, and the certificate that stands beside it."""
    try:
        said = read_json(path)
        result = replace(result, settings=result.settings | said["settings"])
        if "certified" not in said:
            return result
        agreement = [Check.from_plain(check) for check in said["checks"] if check["name"] == AGREEMENT]
        held, certificate = parsed(said["certified"]["per_sample"]), said["certified"]["certificate"]
        found = replace(result, certified=held, certificate=certificate, checks=(*result.checks, *agreement))
        found.check()
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged; run the command that wrote it again.") from error


def _alignment(store: Store) -> Panel | None:
    """Every state under attacks on every adjoint state, where the manifest names these attacks."""
    adjoints = store.manifest.get("adjoints")
    if not adjoints:
        return None
    batches, outcomes = range(store.manifest["batches"]), []
    names = sorted(adjoints, key=lambda name: (len(name), name))  # u_2 before u_10
    for name in names:
        followed = [run.states for batch in batches if (run := store.get(adjoints[name], batch))]
        known = [states.accurate for states in followed if states is not None]
        if len(known) < len(batches):
            raise InputError("the evaluation is not finished; run the same command again and it goes on.")
        outcomes.append(np.concatenate(known).T)
    states = (f"z_{n}" for n in range(1, len(outcomes[0]) + 1))
    title, axes = "robustness under attacks on adjoint states", {"row_axis": "Adjoint state", "column_axis": "State"}
    return accuracies(title, names, states, np.stack(outcomes), **axes)


def refuse_foreign(path: Path) -> None:
    """Raise `InputError` where a file exists that is no page or document of ours."""
    if path.exists() and not is_report(path):
        raise InputError(f"{path} exists and is no report of ours; choose another name.")


def is_report(path: Path) -> bool:
    """Whether a file is a page or a document that was made here, and so may be made again."""
    try:
        start = path.read_text(encoding="utf-8")[:2000]
    except (OSError, ValueError):
        return False
    return any(mark in start for mark in MARKS.values())
