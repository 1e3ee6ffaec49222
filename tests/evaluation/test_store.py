"""What the store gives back is what was committed, or it is refused; whatever happens to the process, disk or file."""

import shutil
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustdeq.base.errors import InputError, require
from robustdeq.evaluation.store import Finished, Outcome, StatesOfBatch, Store, seconds_spent

MANIFEST: dict[str, Any] = {
    "weights": "of this model",
    "data": "these images",
    "code": "this version",
    "environment": {"torch": "2.6", "device": "cpu"},
    "settings": {"attack": {"eps": 0.1, "bounds": (0.0, 1.0)}, "early": 2, "estimators": f"{'(' * 200}a{')' * 200}"},
    "batches": 3,
}
CLEAN, ATTACK = "clean", "PGD(eps=0.1) | Exact()"


def make_run(seed: int, profiled: bool = False, rows: int = 3, batch: int = 4, states: int = 5) -> Finished:
    rng = np.random.default_rng(seed)

    def outcomes(*shape: int) -> np.ndarray:
        return rng.random(shape) < 0.5

    residuals = rng.standard_cauchy((batch, states))
    residuals[0, 0], residuals[-1, -1] = np.nan, np.inf
    profile = StatesOfBatch(outcomes(batch, states), residuals) if profiled else None
    outcome = Outcome(outcomes(rows, batch), outcomes(rows, batch), outcomes(batch))
    return Finished(outcome, float(rng.random()), profile)


RUNS = {(attack, batch): make_run(batch, attack == CLEAN) for attack in (CLEAN, ATTACK) for batch in range(2)}


def plain(run: Finished) -> Any:
    outcome = [values.tolist() for values in (run.outcome.standing, run.outcome.errors, run.outcome.moved)]
    profile = None if run.states is None else (run.states.accurate.tolist(), repr(run.states.residuals.tolist()))
    return outcome, run.seconds, profile


def held(store: Store) -> dict[tuple[str, int], Any]:
    return {(attack, batch): plain(run) for attack, batch, run in store}


ALL = {key: plain(run) for key, run in RUNS.items()}


NOTE = {"final": {"change": [0.25, 1.0]}}


def fill(path: Path | None) -> Store:
    store = Store.create(path, MANIFEST)
    store.note("probe", 0, NOTE)
    for (attack, batch), run in RUNS.items():
        store.commit(attack, batch, run)
    return store


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "out" / "results.sqlite"
    fill(path).close()
    return path


def refused_untouched(path: Path, manifest: dict[str, Any], message: str) -> None:
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    with pytest.raises(InputError, match=message) as refusal:
        Store.create(path, manifest)
    assert "\n" not in str(refusal.value)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before


def test_store_gives_back_what_was_committed(file: Path) -> None:
    for store in (fill(None), Store.create(file, MANIFEST), Store.read(file)):
        with store:
            assert held(store) == ALL
            assert store.manifest["settings"]["attack"] == {"eps": 0.1, "bounds": [0.0, 1.0]}
            assert store.get(ATTACK, 5) is None
            run = store.get(CLEAN, 1)
            assert run is not None
            assert plain(run) == ALL[CLEAN, 1]


@given(
    seed=st.integers(0, 2**40),
    rows=st.integers(1, 4),
    batch=st.integers(1, 7),
    states=st.integers(1, 4),
    profiled=st.booleans(),
    attack=st.text(st.characters(codec="utf-8", exclude_characters="\0")),
)
def test_any_run_survives(
    seed: int, rows: int, batch: int, states: int, profiled: bool, attack: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path, run = tmp_path_factory.mktemp("any") / "results.sqlite", make_run(seed, profiled, rows, batch, states)
    with Store.create(path, MANIFEST) as store:
        store.commit(attack, seed, run)
    with Store.read(path) as store:
        assert held(store) == {(attack, seed): plain(run)}


def test_first_result_of_a_run_stays(file: Path) -> None:
    with Store.create(file, MANIFEST) as store:
        store.commit(ATTACK, 0, make_run(99))
    with Store.read(file) as store:
        assert held(store) == ALL


def test_of_two_processes_with_the_same_run_both_know_the_first(file: Path) -> None:
    files: list[str] = []
    with Store.create(file, MANIFEST) as first, Store.create(file, MANIFEST) as second:
        first.commit(ATTACK, 2, make_run(2), lambda: files.append("first"))
        second.commit(ATTACK, 2, make_run(3), lambda: files.append("second"))
        for store, number in ((first, 0.0), (second, 1.0)):
            store.note("probe", 1, {"final": {"change": [number]}})
        assert held(first) == held(second) == ALL | {(ATTACK, 2): plain(make_run(2))}
        assert first.notes == second.notes == {("probe", 0): NOTE, ("probe", 1): {"final": {"change": [0.0]}}}
        assert files == ["first"]


def test_a_run_whose_files_cannot_be_written_is_not_kept(file: Path) -> None:
    with Store.create(file, MANIFEST) as store:
        with pytest.raises(InputError, match="no space"):
            store.commit(ATTACK, 2, make_run(2), partial(require, False, "there is no space."))
        assert held(store) == ALL
    with Store.read(file) as store:
        assert held(store) == ALL


def test_nothing_is_left_of_a_commit_that_fails_in_the_middle(file: Path) -> None:
    with sqlite3.connect(file) as database:
        database.execute("CREATE TRIGGER t BEFORE INSERT ON profiles BEGIN SELECT RAISE(ABORT, 'stop'); END")
    database.close()
    with Store.create(file, MANIFEST) as store:
        with pytest.raises(InputError, match="stop"):
            store.commit(CLEAN, 2, make_run(2, profiled=True))
        assert held(store) == ALL
        with sqlite3.connect(file) as database:
            assert database.execute("SELECT count(*) FROM outcomes WHERE batch = 2").fetchone() == (0,)
            database.execute("DROP TRIGGER t")
        database.close()
        store.commit(CLEAN, 2, make_run(2, profiled=True))
    with Store.read(file) as store:
        assert held(store) == ALL | {(CLEAN, 2): plain(make_run(2, profiled=True))}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": "x"}, "were made of another model; choose another --output, or pass --overwrite"),
        ({"data": "x"}, "were made on other images"),
        ({"code": "x"}, "were made with another version of the code"),
        ({"environment": {"torch": "2.7", "device": "cpu"}}, "were made with another version of torch or on another"),
        ({"environment": {"torch": "2.6", "device": "cuda"}}, "another kind of device"),
        ({"settings": {**MANIFEST["settings"], "early": 3}}, r"with other settings \(early: 2, now 3\)"),
        ({"settings": {**MANIFEST["settings"], "strict": "s"}}, r'with other settings \(strict: null, now "s"\)'),
        ({"settings": {"early": 2}}, r"with other settings \(attack: .*, now null\)"),
        (
            {"settings": MANIFEST["settings"] | {"attack": {"eps": 0.25, "bounds": (0.0, 1.0)}}},
            r"\(attack: .*\"eps\": 0.1}, now .*\"eps\": 0.25}\)",
        ),
        (
            {"settings": MANIFEST["settings"] | {"estimators": f"{'(' * 200}b{')' * 200}"}},
            r"\(estimators: …\({40}a\){39}…, now …\({40}b\){39}…\)",
        ),
        ({"batches": 2}, "have other rows or columns; choose another --output"),
    ],
    ids=lambda value: str(value),
)
def test_results_of_something_else_are_refused_and_not_touched(
    change: dict[str, Any], message: str, file: Path
) -> None:
    refused_untouched(file, MANIFEST | change, message)


def edited(*statements: str) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        database = sqlite3.connect(path)
        for statement in statements:
            assert database.execute(statement).rowcount == 1
        database.commit()
        database.close()

    return edit


ONE = f"WHERE attack = '{CLEAN}' AND batch = 0"


@pytest.mark.parametrize(
    "damage",
    [
        edited(f"UPDATE outcomes SET standing = '1111' {ONE} AND row = 0 AND standing != '1111'"),
        edited(f"UPDATE outcomes SET errors = '0000' {ONE} AND row = 0 AND errors != '0000'"),
        edited(f"UPDATE outcomes SET row = 7 {ONE} AND row = 2"),
        edited(f"DELETE FROM outcomes {ONE} AND row = 2"),
        edited(f"DELETE FROM runs {ONE}"),
        edited(f"DELETE FROM profiles {ONE} AND state = 1"),
        edited(f"UPDATE profiles SET accurate = '1111' {ONE} AND state = 1 AND accurate != '1111'"),
        edited(f"UPDATE profiles SET residuals = '[0, 0, 0, 0]' {ONE} AND state = 2"),
        edited(f"UPDATE profiles SET residuals = 'none' {ONE} AND state = 2"),
        edited(f"UPDATE runs SET moved = '1111' {ONE} AND moved != '1111'"),
        edited(f"UPDATE runs SET seconds = 0.5 {ONE}"),
        edited(f"UPDATE runs SET batch = 2 {ONE}"),
        edited("UPDATE manifest SET text = replace(text, '\"early\": 2', '\"early\": 3')"),
        edited("UPDATE probes SET text = replace(text, '0.25', '0.5')"),
        edited("UPDATE probes SET batch = 1"),
        edited("DELETE FROM manifest"),
        edited("INSERT INTO manifest SELECT * FROM manifest"),
        edited("UPDATE runs SET digest = CAST(x'80' AS TEXT) WHERE rowid = 2"),
        lambda path: path.write_bytes(path.read_bytes()[:10_000]),
        lambda path: path.write_bytes(path.read_bytes()[:50]),
        lambda path: path.write_bytes(np.random.default_rng(0).bytes(20_000)),
        lambda path: path.write_bytes(b"{}"),
    ],
)
def test_damaged_store_is_refused_and_not_touched(damage: Callable[[Path], object], file: Path) -> None:
    damage(file)
    refused_untouched(file, MANIFEST, "are damaged .*; choose another --output, or pass --overwrite")
    with pytest.raises(InputError, match="are damaged"):
        Store.read(file)
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_flipped_bit_changes_no_result_silently(file: Path) -> None:
    content, rng = file.read_bytes(), np.random.default_rng(0)
    written = np.flatnonzero(np.frombuffer(content, dtype=np.uint8))
    opened = 0
    for position in rng.choice(written, 300, replace=False):
        flipped = bytearray(content)
        flipped[position] ^= 1 << rng.integers(8)
        for open_store in (Store.read, lambda path: Store.create(path, MANIFEST)):
            file.write_bytes(flipped)
            try:
                with open_store(file) as store:
                    assert (held(store), store.manifest["settings"]["early"]) == (ALL, 2)
                    opened += 1
            except InputError as refusal:
                assert "\n" not in str(refusal)
            assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert 0 < opened < 300


def test_flipped_bit_in_the_log_of_a_killed_process_loses_runs_and_changes_none(tmp_path: Path) -> None:
    store = fill(tmp_path / "live" / "results.sqlite")
    log = tmp_path / "live" / "results.sqlite-wal"
    size, rng = log.stat().st_size, np.random.default_rng(0)
    counts = set()
    for trial in range(60):
        copy = tmp_path / str(trial)
        shutil.copytree(tmp_path / "live", copy, ignore=shutil.ignore_patterns("*-shm"))
        flipped = bytearray((copy / log.name).read_bytes())
        position = int(rng.integers(size))
        flipped[position] ^= 1 << rng.integers(8)
        (copy / log.name).write_bytes(flipped)
        with Store.create(copy / "results.sqlite", MANIFEST) as survivor:
            found = held(survivor)
        assert found.items() <= ALL.items()
        counts.add(len(found))
    store.close()
    assert counts >= {1, 2, 3}


@pytest.mark.parametrize("log", [None, b"", b"torn"])
def test_store_that_was_killed_before_it_had_a_manifest_begins_anew(log: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    path.write_bytes(b"")
    if log is not None:
        (tmp_path / "results.sqlite-wal").write_bytes(log)
    with pytest.raises(InputError, match="holds no results yet; run the evaluation first"):
        Store.read(path)
    assert seconds_spent(tmp_path) == 0
    with Store.create(path, MANIFEST) as store:
        assert held(store) == {}
        store.commit(ATTACK, 0, RUNS[ATTACK, 0])
    with Store.read(path) as store:
        assert held(store) == {(ATTACK, 0): ALL[ATTACK, 0]}


def test_log_without_its_store_begins_anew(file: Path) -> None:
    live = fill(file.parent / "live.sqlite")
    shutil.copy(file.parent / "live.sqlite-wal", file.with_name("results.sqlite-wal"))
    live.close()
    file.unlink()
    with Store.create(file, MANIFEST) as store:
        assert held(store).items() <= ALL.items()


@pytest.mark.parametrize(
    ("limit", "lift"),
    [
        ("PRAGMA max_page_count = 1", "PRAGMA max_page_count = 100000"),
        ("PRAGMA query_only = 1", "PRAGMA query_only = 0"),
    ],
    ids=["full", "read-only"],
)
def test_disk_that_cannot_be_written_loses_nothing(limit: str, lift: str, file: Path) -> None:
    large = replace(RUNS[CLEAN, 0], states=StatesOfBatch(np.ones((4, 900), dtype=bool), np.ones((4, 900))))
    with Store.create(file, MANIFEST) as store:
        store._database.execute(limit)
        with pytest.raises(
            InputError, match=r"cannot be written .*what was finished is kept: free some space, then run"
        ):
            store.commit(CLEAN, 2, large)
        assert held(store) == ALL
        with Store.read(file) as seen:
            assert held(seen) == ALL
        store._database.execute(lift)
        store.commit(CLEAN, 2, large)
    with Store.read(file) as store:
        assert held(store) == ALL | {(CLEAN, 2): plain(large)}


@pytest.mark.parametrize("place", ["occupied/results.sqlite", "folder"])
def test_place_that_cannot_hold_a_store_is_refused(place: str, tmp_path: Path) -> None:
    (tmp_path / "occupied").write_text("a file")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=r"cannot be opened .*; choose another --output"):
        Store.create(tmp_path / place, MANIFEST)


@pytest.mark.parametrize("place", ["missing/results.sqlite", ""])
def test_folder_without_results_cannot_be_read(place: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there are no results at .*; give the folder of an evaluation"):
        Store.read(tmp_path / place)
    assert list(tmp_path.iterdir()) == []


def test_store_in_a_folder_that_cannot_be_written_is_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(file).close()
    database = sqlite3.connect(file)
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with Store.read(file) as store:
        assert [entry.name for entry in file.parent.iterdir()] == [file.name]
        assert held(store) == ALL


def test_two_evaluations_may_share_a_store(file: Path) -> None:
    with Store.create(file, MANIFEST) as one, Store.create(file, MANIFEST) as other:
        for store in (one, other):
            store.commit(ATTACK, 2, make_run(2))
        other.commit(CLEAN, 2, make_run(3))
    with Store.read(file) as store:
        assert held(store) == ALL | {(ATTACK, 2): plain(make_run(2)), (CLEAN, 2): plain(make_run(3))}


def test_reader_that_takes_its_time_does_not_block_the_writer(file: Path) -> None:
    with Store.read(file) as reader, Store.create(file, MANIFEST) as writer:
        count = "SELECT count(*) FROM runs"
        reader._database.execute("BEGIN")
        assert reader._database.execute(count).fetchone() == (len(ALL),)
        writer._database.execute("PRAGMA busy_timeout = 0")
        writer.commit(ATTACK, 2, make_run(2))
        assert reader._database.execute(count).fetchone() == (len(ALL),)
        reader._database.execute("COMMIT")
        assert reader._database.execute(count).fetchone() == (len(ALL) + 1,)


def test_what_is_read_while_another_process_writes_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    Store.create(path, MANIFEST).close()

    def write() -> None:
        with Store.create(path, MANIFEST) as store:
            for batch in range(150):
                store.commit(ATTACK, batch, make_run(batch))

    counts = []
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        while not writing.done():
            with Store.read(path) as store:
                counts.append(len(held(store)))
        writing.result()
    assert counts == sorted(counts)
    assert len(set(counts)) > 2


def test_store_takes_over_what_it_lacks_and_knows_what_it_is_told(file: Path, tmp_path: Path) -> None:
    part = tmp_path / "part.sqlite"
    with Store.create(part, MANIFEST) as store, Store.read(file) as done:
        store.know(done)
        assert held(store) == ALL
        store.commit(ATTACK, 2, make_run(2))
        store.note("probe", 1, NOTE)
    with Store.create(part, MANIFEST) as store, Store.create(file, MANIFEST) as whole:
        assert list(held(store)) == [(ATTACK, 2)]
        whole.absorb(store, store.notes)
    with Store.read(file) as store:
        assert held(store) == ALL | {(ATTACK, 2): plain(make_run(2))}
        assert store.notes == {("probe", 0): NOTE, ("probe", 1): NOTE}
