"""A killed evaluation loses nothing that it had finished, and the one that goes on ends in the same table."""

import multiprocessing
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from typing_extensions import override

import interruptions
import robustdeq as rd
from robustdeq import cli
from robustdeq.attacks import PGD
from robustdeq.evaluation import Estimators, GridResult, Store, Strict, assemble
from robustdeq.evaluation.column import Role
from robustdeq.evaluation.job import CLEAN, Job, judge
from robustdeq.evaluation.measure import plan
from robustdeq.evaluation.store import FILE, Finished
from robustdeq.models import MDEQ

KILLS = 20
ATTACK = PGD(eps=0.06, step_size=0.04, steps=1)
ESTIMATORS = Estimators(steps=(1,), dampings=(1.0,), states=2)
STRICT = Strict(ATTACK, ESTIMATORS, steps=2, restarts=2, apgd_steps=2, targets=1, queries=5, probe_images=4)

Known = dict[tuple[str, int], str]


def digits(n: int) -> tuple[Tensor, Tensor]:
    return rd.data.load("digits").require("test").head(n).tensors()


def strict_job(deq: MDEQ, x: Tensor, y: Tensor, batch_size: int = 4) -> Job:
    return plan(deq, x, y, STRICT, early=2, batch_size=batch_size)


def plain(run: Finished) -> str:
    outcome = [values.tolist() for values in (run.outcome.standing, run.outcome.errors, run.outcome.moved)]
    profile = None if run.states is None else [run.states.accurate.tolist(), run.states.residuals.tolist()]
    return repr((outcome, profile, run.seconds))


def held(store: Store) -> Known:
    return {(attack, batch): plain(run) for attack, batch, run in store}


class Reporting(Store):
    """A store that tells what is committed, once it is."""

    listener: Connection

    @override
    def commit(self, attack: str, batch: int, run: Finished, beside: Callable[[], None] = lambda: None) -> None:
        super().commit(attack, batch, run, beside)
        self.listener.send(((attack, batch), plain(run)))


def evaluate_and_tell(job: Job, file: Path, listener: Connection) -> None:
    torch.set_num_threads(1)
    with Reporting.create(file, job.manifest()) as store:
        store.listener = listener
        job.run(store)


def told_until(moment: float, reader: Connection) -> Iterator[tuple[tuple[str, int], str]]:
    """What is reported until then, or until the process ends."""
    try:
        while reader.poll(max(moment - time.monotonic(), 0)):
            yield reader.recv()
    except (EOFError, OSError):
        return


def same_table(result: GridResult, reference: GridResult) -> bool:
    pd.testing.assert_frame_equal(result.to_frame(), reference.to_frame(), check_exact=True)
    return repr(result.to_dict()) == repr(reference.to_dict())


@pytest.mark.usefixtures("one_thread")
def test_killed_evaluation_goes_on_to_the_same_table(trained: MDEQ, tmp_path: Path) -> None:
    x, y = digits(6)
    job = strict_job(trained, x, y, batch_size=3)
    file, fork = tmp_path / FILE, multiprocessing.get_context("fork")
    reader, writer = fork.Pipe(duplex=False)
    process = fork.Process(target=evaluate_and_tell, args=(job, file, writer))
    process.start()
    writer.close()
    known = dict(reader.recv() for _ in range(3))
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    known |= told_until(0, reader)
    with Store.create(file, job.manifest()) as store, Store.create(None, job.manifest()) as whole:
        assert held(store).items() >= known.items()
        assert len(held(store)) <= len(known) + 1
        job.run(whole)
        assert len(held(store)) < len(held(whole))
        job.run(store)
        assert held(store).items() >= known.items()
        assert same_table(assemble(store), assemble(whole))


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_evaluation_killed_at_twenty_moments_loses_no_finished_run_and_ends_in_the_same_table(
    trained: MDEQ, tmp_path: Path
) -> None:
    x, y = digits(12)
    job = strict_job(trained, x, y)
    manifest = job.manifest()
    begun = time.monotonic()
    with Store.create(tmp_path / "uninterrupted" / FILE, manifest) as store:
        job.run(store)
        reference, runs = assemble(store), len(held(store))
    duration = time.monotonic() - begun
    assert 0 < reference.worst_case.max() < reference.robustness.max() < 1

    fork, rng = multiprocessing.get_context("fork"), np.random.default_rng(0)
    known, file, kills, evaluations = Known(), tmp_path / "0" / FILE, 0, 0
    while True:
        reader, writer = fork.Pipe(duplex=False)
        process = fork.Process(target=evaluate_and_tell, args=(job, file, writer))
        process.start()
        writer.close()
        patience = duration * rng.uniform(0, 1 / 6) if kills < KILLS else 300
        known |= told_until(time.monotonic() + patience, reader)
        process.kill()
        process.join()
        killed = process.exitcode == -signal.SIGKILL
        known |= told_until(0, reader)
        with Store.create(file, manifest) as store:
            found = held(store)
            assert found.items() >= known.items()
            assert len(found) <= len(known) + killed
            known, kills = found, kills + killed
            if not killed:
                assert process.exitcode == 0
                assert len(found) == runs
                assert same_table(assemble(store), reference)
                known, evaluations = Known(), evaluations + 1
                file = tmp_path / str(evaluations) / FILE
                if kills == KILLS:
                    break
    assert evaluations > 0


def test_adversaries_are_kept_in_the_ball_and_give_the_outcomes_of_the_store(trained: MDEQ, tmp_path: Path) -> None:
    x, y = digits(4)
    job = strict_job(trained, x, y, batch_size=2)
    folder = tmp_path / "adversaries"
    low, high = ATTACK.bounds
    fallen = 0
    with Store.create(tmp_path / FILE, job.manifest()) as store:
        job.run(store, adversaries=folder)
        attempts = {attempt.key: (attempt, column.role) for column in job.columns for attempt in column.attempts}
        before = {file.name: load_file(file)["adversaries"] for file in folder.iterdir()}
        assert len(before) == len(held(store))
        assert torch.equal(torch.cat([before[f"{CLEAN}-0000{batch}.safetensors"] for batch in job.batches]), x)
        for file in {*folder.iterdir()} - {*folder.glob(f"{CLEAN}-*")}:
            with safe_open(file, framework="pt") as content:
                names, adversaries = content.metadata(), content.get_tensor("adversaries")
                labels = content.get_tensor("labels")
            batch, (attempt, role) = int(names["batch"]), attempts[names["attack"]]
            images, run = x[2 * batch : 2 * batch + 2], store.get(names["attack"], batch)
            assert run is not None
            assert torch.equal(labels, y[2 * batch : 2 * batch + 2])
            assert low <= adversaries.min() <= adversaries.max() <= high
            if role is not Role.OUTSIDE:
                assert (adversaries - images).abs().max() <= ATTACK.eps + 1e-6
            judged = judge(trained, job.rows, images, adversaries, labels)
            if attempt.survivors:
                fallen += int((judged.standing & ~run.outcome.standing).sum())
                assert not (run.outcome.standing & ~judged.standing).any()
            else:
                assert np.array_equal(judged.standing, run.outcome.standing)
        assert fallen > 0

        known = held(store)
        missing = sorted(before)[::5]
        for name in missing:
            (folder / name).unlink()
        times = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
        job.run(store, adversaries=folder)
        assert held(store) == known
    assert {file.name for file in folder.iterdir()} == set(before)
    assert all(torch.equal(load_file(folder / name)["adversaries"], before[name]) for name in before)
    assert all((folder / name).stat().st_mtime_ns == moment for name, moment in times.items())


COMMAND = ["evaluate", "model.safetensors", "--data", "digits", "--n", "12", "--batch_size", "2", "--output", "out"]
COMMAND += ["--device", "cpu", "--attack.steps", "3", "--estimators.steps", "[1]", "--estimators.dampings", "[1.0]"]


def started(folder: Path) -> subprocess.Popen[str]:
    script = Path(sys.executable).parent / "robustdeq"
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [script, *COMMAND], cwd=folder, stdout=pipe, stderr=pipe, text=True, preexec_fn=interruptions.heed
    )


def rows(file: Path) -> int:
    if not file.is_file():
        return 0
    database = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    try:
        return database.execute("SELECT count(*) FROM runs").fetchone()[0]
    except sqlite3.OperationalError:
        return 0
    finally:
        database.close()


def stopped_after(count: int, how: signal.Signals, folder: Path) -> tuple[int, str, str]:
    """The command, ended by a signal once it has finished so many runs: its status, output and errors."""
    process = started(folder)
    try:
        while rows(folder / "out" / FILE) < count and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(how)
        output, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    return process.returncode, output, errors


@pytest.mark.slow
def test_command_that_was_killed_and_interrupted_goes_on_to_the_same_results(
    trained: MDEQ, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    for folder in (whole, resumed):
        rd.save(trained, folder / "model.safetensors", early=2)
    monkeypatch.chdir(whole)
    monkeypatch.setattr(sys, "argv", ["robustdeq", *COMMAND])
    cli.main()
    shown = capsys.readouterr().out
    assert "worst case" in shown

    assert stopped_after(5, signal.SIGKILL, resumed)[0] == -signal.SIGKILL
    assert {"results.json", "results.csv"}.isdisjoint(file.name for file in (resumed / "out").iterdir())
    kept = rows(resumed / "out" / FILE)
    status, output, errors = stopped_after(kept + 3, signal.SIGINT, resumed)
    assert (status, output) == (130, "")
    assert errors.endswith("robustdeq: interrupted; the same command goes on from what is finished.\n")
    assert "Traceback" not in errors
    assert not (resumed / "out" / "results.json").exists()

    with Store.read(resumed / "out" / FILE) as store:
        before = held(store)
    assert len(before) >= kept + 3
    last = started(resumed)
    assert last.communicate(timeout=240)[0] == shown
    assert last.returncode == 0
    with Store.read(resumed / "out" / FILE) as store:
        assert held(store).items() > before.items()
    for name in ("results.json", "results.csv"):
        assert (resumed / "out" / name).read_bytes() == (whole / "out" / name).read_bytes()
    monkeypatch.chdir(resumed)
    cli.main()
    assert capsys.readouterr().out == shown
