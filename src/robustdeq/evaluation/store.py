"""The store of an evaluation: every finished (attack, batch) in one SQLite file, committed whole or not at all.

`manifest` holds one JSON text that says what the results belong to; `runs` one row per attempt and batch; `outcomes`
one per attempt, batch and row of the table, a digit per sample; `profiles` one per state; `probes` what a probe found
on a batch, as JSON. A run and all that belongs to it is one transaction, so a process that is killed loses at most the
batch it was working on.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from robustdeq.base.errors import InputError, require
from robustdeq.base.files import write_text
from robustdeq.base.plain import from_json

_SCHEMA = """
CREATE TABLE manifest (text TEXT NOT NULL, digest TEXT NOT NULL);
CREATE TABLE runs (
    attack TEXT NOT NULL, batch INTEGER NOT NULL, seconds REAL NOT NULL, moved TEXT NOT NULL,
    digest TEXT NOT NULL, PRIMARY KEY (attack, batch)
);
CREATE TABLE outcomes (
    attack TEXT NOT NULL, batch INTEGER NOT NULL, row INTEGER NOT NULL, standing TEXT NOT NULL, errors TEXT NOT NULL,
    PRIMARY KEY (attack, batch, row)
);
CREATE TABLE profiles (
    attack TEXT NOT NULL, batch INTEGER NOT NULL, state INTEGER NOT NULL, accurate TEXT NOT NULL,
    residuals TEXT NOT NULL,
    PRIMARY KEY (attack, batch, state)
);
CREATE TABLE probes (
    probe TEXT NOT NULL, batch INTEGER NOT NULL, text TEXT NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (probe, batch)
);
"""
Numbers = dict[str, dict[str, list[float]]]
"""What a probe found on a batch: by row of the table and by name, a number per image."""

_DIFFERENCES = {
    "weights": "of another model",
    "data": "on other images",
    "code": "with another version of the code",
    "environment": "with another version of torch or on another kind of device",
}
_UNWRITABLE = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_CANTOPEN,
}
FILE = "results.sqlite"
MANIFEST = "manifest.json"


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of one batch under one attempt.

    Attributes:
        standing: whether each row of the table classifies each image correctly, (rows, batch).
        errors: whether its logits were not finite there, which counts as an error of the defense.
        moved: whether the attack changed the image at all, (batch,).
    """

    standing: Bool[np.ndarray, "rows batch"]
    errors: Bool[np.ndarray, "rows batch"]
    moved: Bool[np.ndarray, "batch"]

    @classmethod
    def of(cls, batches: Sequence[Outcome]) -> Outcome:
        """What became of several batches, one after the other."""
        parts = ([getattr(batch, name) for batch in batches] for name in ("standing", "errors", "moved"))
        return cls(*(np.concatenate(part, axis=-1) for part in parts))


@dataclass(frozen=True, eq=False)
class StatesOfBatch:
    """Every state of every sample of one batch.

    Attributes:
        accurate: whether the head classifies it correctly from z_1 … z_{N+1}, (batch, states).
        residuals: its relative residual there, (batch, states).
    """

    accurate: Bool[np.ndarray, "batch states"]
    residuals: Float[np.ndarray, "batch states"]


@dataclass(frozen=True)
class Finished:
    """One finished attempt on one batch.

    Attributes:
        outcome: what became of every sample.
        seconds: how long it took.
        states: every state of every sample, where the adversaries are followed along the trajectory.
    """

    outcome: Outcome
    seconds: float
    states: StatesOfBatch | None = None


class Store:
    """The results of one evaluation, in a file or in memory.

    Use `create` or `read`; close it, or use it as a context manager.

    Args:
        path: the file; None keeps everything in memory.
        manifest: what the results belong to.
    """

    def __init__(self, path: Path | None, manifest: Mapping[str, Any]) -> None:
        self.path = path
        self.manifest = dict(manifest)
        self._known: dict[tuple[str, int], Finished] = {}
        self._noted: dict[tuple[str, int], Numbers] = {}
        self._database = _connect(path)

    @classmethod
    def create(cls, path: Path | None, manifest: Mapping[str, Any]) -> Store:
        """Open the store of an evaluation, or begin it.

        Args:
            path: the file; None for one in memory.
            manifest: what its results belong to, as plain JSON values. `"settings"` and each of `"weights"`, `"data"`,
                `"code"` and `"environment"` must be those of the store that is there already.

        Raises:
            InputError: the store belongs to something else, is damaged, or cannot be written.
        """
        store = cls(path, json.loads(_text(manifest)))
        with store._closed_on_failure(), store._guarded():
            store._database.execute("PRAGMA journal_mode = WAL")
            store._database.execute("PRAGMA synchronous = FULL")
            with store._transaction("IMMEDIATE"):
                if not store._begun():
                    for statement in _SCHEMA.split(";\n"):
                        store._database.execute(statement)
                    text = _text(store.manifest)
                    store._database.execute("INSERT INTO manifest VALUES (?, ?)", (text, _digest(text)))
                store._check_manifest()
                store._load()
        return store

    @classmethod
    def begin(cls, folder: Path | None, manifest: Mapping[str, Any]) -> Store:
        """Open or begin the store of an evaluation in its folder, with its manifest beside it.

        What several processes had left there before an interruption is taken over.

        Args:
            folder: of the evaluation; None for a store in memory.
            manifest: as for `create`.

        Raises:
            InputError: as for `create`.
        """
        store = cls.create(None if folder is None else folder / FILE, manifest)
        if folder is not None:
            with store._closed_on_failure():
                _publish(folder / MANIFEST, store.manifest)
                for part in sorted(folder.glob(part_name("[0-9]*"))):
                    with cls.create(part, manifest) as other:
                        store.absorb(other, other.notes)
                    part.unlink(missing_ok=True)
        return store

    @classmethod
    def read(cls, path: Path) -> Store:
        """Open a store for its results.

        Raises:
            InputError: there is none, or it is damaged.
        """
        require(path.is_file(), f"there are no results at {path}; give the folder of an evaluation.")
        store = cls(path, {})
        with store._closed_on_failure(), store._guarded(), store._transaction("DEFERRED"):
            require(store._begun(), f"{path} holds no results yet; run the evaluation first.")
            store.manifest = from_json(store._text())
            store._load()
        return store

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def get(self, attack: str, batch: int) -> Finished | None:
        """What is known of an attempt on a batch."""
        return self._known.get((attack, batch))

    def __iter__(self) -> Iterator[tuple[str, int, Finished]]:
        """Yield every (attack, batch, run)."""
        for (attack, batch), run in self._known.items():
            yield attack, batch, run

    def commit(self, attack: str, batch: int, run: Finished, beside: Callable[[], None] = lambda: None) -> None:
        """Keep a finished run; when this returns, it is on disk, or that of another process which was first.

        Args:
            attack: the key of the attempt.
            batch: the number of the batch.
            run: what became of it.
            beside: writes what belongs to the run and lies outside the store; called where the run is kept.

        Raises:
            InputError: it cannot be written; what was there before is intact.
        """
        outcome, followed = run.outcome, run.states
        rows = [
            (attack, batch, i, digits(outcome.standing[i]), digits(outcome.errors[i]))
            for i in range(len(outcome.standing))
        ]
        states = [] if followed is None else [
            (attack, batch, n + 1, digits(followed.accurate[:, n]), json.dumps(followed.residuals[:, n].tolist()))
            for n in range(followed.accurate.shape[1])
        ]  # fmt: skip
        moved = digits(outcome.moved)
        row = (attack, batch, float(run.seconds), moved)
        with self._guarded(), self._transaction("IMMEDIATE"):
            written = (*row, _digest(row, rows, states))
            if self._database.execute("INSERT OR IGNORE INTO runs VALUES (?, ?, ?, ?, ?)", written).rowcount:
                self._database.executemany("INSERT INTO outcomes VALUES (?, ?, ?, ?, ?)", rows)
                self._database.executemany("INSERT INTO profiles VALUES (?, ?, ?, ?, ?)", states)
                beside()
                self._known[attack, batch] = run
            else:
                self._load()

    @property
    def notes(self) -> dict[tuple[str, int], Numbers]:
        """What each probe found on each batch."""
        return dict(self._noted)

    def note(self, probe: str, batch: int, numbers: Numbers) -> None:
        """Keep what a probe found on a batch, as `commit` keeps a run."""
        text = json.dumps(numbers)
        with self._guarded(), self._transaction("IMMEDIATE"):
            written = (probe, batch, text, _digest(probe, batch, text))
            if self._database.execute("INSERT OR IGNORE INTO probes VALUES (?, ?, ?, ?)", written).rowcount:
                self._noted[probe, batch] = numbers
            else:
                self._load()

    def absorb(self, runs: Iterable[tuple[str, int, Finished]], notes: Mapping[tuple[str, int], Numbers]) -> None:
        """Take over the runs and notes, of a store with the same manifest, that are not here yet."""
        for attack, batch, run in runs:
            if self.get(attack, batch) is None:
                self.commit(attack, batch, run)
        for probe, batch in notes.keys() - self._noted.keys():
            self.note(probe, batch, notes[probe, batch])

    def know(self, other: Store) -> None:
        """Take the runs and notes of a store with the same manifest for done, without keeping them here."""
        self._known |= {(attack, batch): run for attack, batch, run in other}
        self._noted |= other.notes

    def _begun(self) -> bool:
        return bool(self._database.execute("SELECT name FROM sqlite_master WHERE name = 'manifest'").fetchone())

    def _text(self) -> str:
        rows = self._database.execute("SELECT text, digest FROM manifest").fetchall()
        if len(rows) != 1 or rows[0][1] != _digest(rows[0][0]):
            raise sqlite3.DatabaseError("its manifest is not what was written")
        return rows[0][0]

    def _check_manifest(self) -> None:
        there, here = from_json(self._text()), self.manifest
        for key, difference in _DIFFERENCES.items():
            if there.get(key) != here.get(key):
                raise InputError(f"the results in {self._place} were made {difference}; {_WAY_OUT}")
        settings = {**there.get("settings", {}), **here.get("settings", {})}
        for name in settings:
            old, new = there.get("settings", {}).get(name), here.get("settings", {}).get(name)
            if old != new:
                was, is_now = _where_they_part(json.dumps(old), json.dumps(new))
                raise InputError(
                    f"the results in {self._place} were made with other settings ({name}: {was}, now {is_now}); "
                    f"{_WAY_OUT}"
                )

        if there != here:
            raise InputError(f"the results in {self._place} have other rows or columns; {_WAY_OUT}")

    @property
    def _place(self) -> str:
        return "memory" if self.path is None else str(self.path.parent)

    def _load(self) -> None:
        """Read every run, and refuse the store where one is not what was committed."""
        for (verdict,) in self._database.execute("PRAGMA integrity_check").fetchall():
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict)
        outcomes: dict[tuple[str, int], list[Any]] = defaultdict(list)
        profiles: dict[tuple[str, int], list[Any]] = defaultdict(list)
        for table, known in (("outcomes", outcomes), ("profiles", profiles)):
            for row in self._database.execute(f"SELECT * FROM {table} ORDER BY 1, 2, 3"):
                known[row[:2]].append(row)
        runs = self._database.execute("SELECT attack, batch, seconds, moved, digest FROM runs ORDER BY rowid")
        for *row, digest in runs.fetchall():
            attack, batch, seconds, moved = row
            rows, states = outcomes.pop((attack, batch), []), profiles.pop((attack, batch), [])
            if not rows or digest != _digest(row, rows, states):
                raise sqlite3.DatabaseError(f"the run of batch {batch} is not what was written")
            outcome = Outcome(_stack(rows, 3), _stack(rows, 4), parsed(moved))
            followed = None
            if states:
                residuals = np.array([from_json(state[4]) for state in states], float).T
                followed = StatesOfBatch(_stack(states, 3).T, residuals)
            self._known[attack, batch] = Finished(outcome, seconds, followed)
        for probe, batch, text, digest in self._database.execute("SELECT * FROM probes ORDER BY rowid"):
            if digest != _digest(probe, batch, text):
                raise sqlite3.DatabaseError(f"the probe of batch {batch} is not what was written")
            self._noted[probe, batch] = from_json(text)
        if outcomes or profiles:
            raise sqlite3.DatabaseError("it holds outcomes of a run that it does not know")

    @contextmanager
    def _closed_on_failure(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise

    @contextmanager
    def _transaction(self, kind: str) -> Iterator[None]:
        with self._database:
            self._database.execute(f"BEGIN {kind}")
            yield

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except (sqlite3.DatabaseError, ValueError, TypeError, IndexError) as error:
            reason = str(error).partition("\n")[0]
            if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF in _UNWRITABLE:
                raise InputError(
                    f"the results in {self._place} cannot be written ({reason}); what was finished is kept: free some "
                    "space, then run the same command again."
                ) from error
            raise InputError(f"the results in {self._place} are damaged ({reason}); {_WAY_OUT}") from error


_WAY_OUT = "choose another --output, or pass --overwrite to begin again."


def seconds_spent(folder: Path) -> float:
    """How long everything took that the store in a folder holds; 0 where there is none that was begun."""
    try:
        with Store.read(folder / FILE) as store:
            return sum(found.seconds for *_, found in store)
    except InputError:
        return 0.0


def part_name(rank: int | str) -> str:
    """The file in which a further process keeps what it has finished."""
    return f"results-{rank}.sqlite"


def discard(folder: Path) -> None:
    """Delete what an evaluation leaves in its folder, and nothing else."""
    patterns = (
        f"{FILE}*",
        part_name("[0-9]*") + "*",
        MANIFEST,
        "results.json",
        "results.csv",
        "results.png",
        "exhibits.safetensors",
        "report.html",
        "adversaries/*.safetensors",
    )
    for path in chain.from_iterable(map(folder.glob, patterns)):
        path.unlink()


def _publish(path: Path, manifest: Mapping[str, Any]) -> None:
    """Write what the results belong to beside them, for people to read."""
    text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    if path.is_file() and path.read_text(encoding="utf-8", errors="replace") != text:
        raise InputError(f"{path} does not belong to the results beside it; {_WAY_OUT}")
    write_text(path, text)


def _connect(path: Path | None) -> sqlite3.Connection:
    try:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        address = ":memory:" if path is None else _address(path)
        database = sqlite3.connect(address, timeout=60, isolation_level=None, uri=path is not None)
    except (OSError, sqlite3.OperationalError) as error:
        raise InputError(f"{path} cannot be opened ({error}); choose another --output.") from error
    database.text_factory = partial(str, encoding="utf-8", errors="replace")  # else damaged text leaves a query open
    return database


def _address(path: Path) -> str:
    """How SQLite opens a file; one in a folder that cannot be written, as a file that nobody changes."""
    still = not os.access(path.parent, os.W_OK) and not path.with_name(f"{path.name}-wal").exists()
    return f"{path.resolve().as_uri()}{'?immutable=1' if still else ''}"


def _text(manifest: Mapping[str, Any]) -> str:
    return json.dumps(manifest, sort_keys=True)


def _where_they_part(*texts: str) -> list[str]:
    """Texts that differ, cut to a little before and after the first place where they do."""
    start = max(next(i for i, letters in enumerate(zip_longest(*texts)) if len(set(letters)) > 1) - 40, 0)
    return [f"{'…' if start else ''}{text[start : start + 80]}{'…' if text[start + 80 :] else ''}" for text in texts]


def digits(values: Bool[np.ndarray, "n"]) -> str:
    """Outcomes of samples as a string of 0 and 1."""
    return (values.astype(np.uint8) + ord("0")).tobytes().decode("ascii")


def parsed(digits: str) -> Bool[np.ndarray, "n"]:
    """The outcomes that `digits` wrote; raises `ValueError` or `TypeError` where these are none."""
    values = np.frombuffer(bytes(digits, "ascii"), np.uint8) - ord("0")
    if (values > 1).any():
        raise ValueError(f"{digits!r:.80} are no outcomes")
    return values.astype(bool)


def _stack(rows: list[Any], column: int) -> Bool[np.ndarray, "rows n"]:
    return np.stack([parsed(row[column]) for row in rows])


def _digest(*content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
