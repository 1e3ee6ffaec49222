"""The demo, with trainings of a few steps: two processes, one table, and the same numbers in every file."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import interruptions
from robustdeq import cli
from robustdeq.base.errors import InputError
from robustdeq.cli import demo
from robustdeq.evaluation import GridResult
from robustdeq.study.beyond.overestimate import readings

IMAGES = 6


@pytest.fixture
def brief(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings of four steps and attacks at one intermediate state, for children of this process too."""
    trainings = {}
    for name, (title, recipe) in demo.TRAININGS.items():
        own = tmp_path / f"{name}.yaml"
        own.write_text(f"base: {recipe}\nschedule: {{max_steps: 4, validations: 1, validation_images: 8}}\n")
        trainings[name] = (title, str(own))
    monkeypatch.setattr(demo, "TRAININGS", trainings)
    monkeypatch.setattr(demo, "ESTIMATORS", replace(demo.ESTIMATORS, states=1))


@pytest.mark.slow
@pytest.mark.usefixtures("brief")
def test_numbers_are_those_of_the_attacks_and_a_second_demo_finds_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "demo"
    cli.main(["demo", "--output", str(output), "--n", str(IMAGES)])
    written = (output / "summary.json").read_text()
    summary = json.loads(written)
    assert summary["images"] == IMAGES
    for name in ("unrolled", "aligned"):
        found = 100 * readings(GridResult.read(output / name / "results.json")).mean(axis=1)
        assert [summary[name][key] for key in demo.KEYS] == pytest.approx(found.tolist(), abs=0.05)
        low, high = summary[name]["worst_case_interval"]
        assert low <= summary[name]["worst_case"] <= min(summary[name][key] for key in demo.KEYS)
        assert summary[name]["worst_case"] <= high
        assert (output / name / "model.safetensors").is_file()
    assert "trained the paper's way" in (shown := capsys.readouterr().out)
    assert "Worst case" in " ".join(shown.replace("│", " ").split())
    assert {"demo.png", "report.html"} <= {path.name for path in output.iterdir()}
    cli.main(["demo", "--output", str(output), "--n", str(IMAGES)])
    assert (output / "summary.json").read_text() == written
    with pytest.raises(SystemExit):
        cli.main(["demo", "--output", str(output), "--n", str(IMAGES), "--seed", "1"])
    assert "with another recipe" in " ".join(capsys.readouterr().err.split())
    assert (output / "summary.json").read_text() == written
    cli.main(["demo", "--output", str(output), "--n", "5", "--seed", "1", "--overwrite"])
    again = json.loads((output / "summary.json").read_text())
    assert (again["images"], again["seed"]) == (5, 1)


def failing(report: object) -> None:
    raise ValueError("as told")


def reporting(report: object) -> int:
    report(0.5, "half")  # pyright: ignore[reportCallIssue]
    return 7


def test_more_digits_than_there_are_is_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def first_asked(tasks: dict[str, partial[GridResult]]) -> dict[str, GridResult]:
        raise InputError(f"{next(iter(tasks.values())).args[2]} digits are attacked.")

    monkeypatch.setattr(demo, "_in_processes", first_asked)
    with pytest.raises(InputError, match=r"^400 digits are attacked"):
        demo.demo(output=tmp_path, n=1000)


def test_what_one_process_cannot_do_is_told_by_the_other() -> None:
    with pytest.raises(ValueError, match="as told"):
        demo._in_processes({"one": reporting, "two": failing})


@pytest.mark.slow
def test_what_processes_return_is_told_apart() -> None:
    assert demo._in_processes({"one": reporting, "two": reporting}) == {"one": 7, "two": 7}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="it looks for the processes where Linux lists them")
@pytest.mark.parametrize("children", [2, 4])
def test_an_interruption_while_its_processes_start_is_one_sentence(children: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "robustdeq.cli", "demo", "--output", str(tmp_path / "demo")]
    running = subprocess.Popen(
        command, stderr=subprocess.PIPE, start_new_session=True, text=True, preexec_fn=interruptions.heed
    )
    started = Path(f"/proc/{running.pid}/task/{running.pid}/children")
    try:
        while running.poll() is None and len(started.read_text().split()) < children:
            time.sleep(0.01)
        os.killpg(running.pid, signal.SIGINT)
        _, told = running.communicate(timeout=240)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
    assert running.returncode == 130
    assert "interrupted" in told
    assert "Traceback" not in told
