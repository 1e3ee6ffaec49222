"""Several processes make the table of one; what they have finished survives them; a mistake ends them all."""

import contextlib
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

import pair
import robustdeq as rd
from robustdeq import cli
from robustdeq.base.errors import InputError
from robustdeq.evaluation import Store
from robustdeq.evaluation.distributed import launch
from robustdeq.evaluation.store import FILE
from robustdeq.models import MDEQ

COMMAND = ["evaluate", "model.safetensors", "--data", "digits", "--n", "8", "--batch_size", "2", "--output", "out"]
COMMAND += ["--device", "cpu", "--estimators.steps", "[1]", "--estimators.dampings", "[1.0]"]
SETTINGS = ["--attack.eps", "0.06", "--attack.step_size", "0.03", "--attack.steps", "1"]
PART = "results-1.sqlite"
pytestmark = pytest.mark.xdist_group("distributed")


@pytest.fixture(scope="module")
def alone(trained: MDEQ, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process leaves."""
    folder = tmp_path_factory.mktemp("alone")
    rd.save(trained, folder / "model.safetensors", early=2)
    with contextlib.chdir(folder):
        cli.main([*COMMAND, *SETTINGS])
    return folder / "out"


@pytest.fixture(autouse=True)
def folder(trained: MDEQ, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rd.save(trained, tmp_path / "model.safetensors", early=2)
    return tmp_path


def results(folder: Path) -> dict[str, Any]:
    content = json.loads((folder / "results.json").read_text())
    del content["settings"]["command"]
    return content


def runs(file: Path) -> int:
    try:
        with Store.read(file) as store:
            return sum(1 for _ in store)
    except InputError:
        return 0


@pytest.mark.slow
def test_two_processes_make_the_results_of_one_even_when_they_are_killed_and_refuse_other_settings(
    folder: Path, alone: Path
) -> None:
    with Store.read(alone / FILE) as store:
        whole = {(attack, batch) for attack, batch, _ in store}

    def both(finished: int) -> bool:
        return min(runs(folder / "out" / name) for name in (FILE, PART)) >= finished

    process = pair.started(*COMMAND, *SETTINGS)
    pair.await_that(lambda: both(3), process)
    process.kill()
    assert pair.ended(process)[0] == -signal.SIGKILL
    for name, remainder in ((FILE, 0), (PART, 1)):
        with Store.read(folder / "out" / name) as store:
            assert {batch % 2 for _, batch, _ in store} == {remainder}
    process = pair.started(*COMMAND, *SETTINGS)
    pair.await_that(lambda: both(6), process)
    pair.kill_a_worker(process, 0)
    assert "another process of this run has stopped" in pair.told_once(process)
    assert not (folder / "out" / "results.json").exists()
    kept = {}
    for name in (FILE, PART):
        with Store.read(folder / "out" / name) as store:
            kept |= {(attack, batch): run for attack, batch, run in store}
    assert kept.keys() < whole

    status, output, errors = pair.ended(pair.started(*COMMAND, *SETTINGS))
    assert status == 0, errors
    assert output.count("Linf attacks with ε") == 1
    assert results(folder / "out") == results(alone)
    assert not (folder / "out" / PART).exists()
    with Store.read(folder / "out" / FILE) as store:
        found = {(attack, batch): run for attack, batch, run in store}
    assert found.keys() == whole
    assert all(found[key].seconds == run.seconds for key, run in kept.items())

    before = {path: path.read_bytes() for path in (folder / "out").iterdir()}
    told = pair.told_once(pair.started(*COMMAND, *SETTINGS, "--attack.eps", "0.07"))
    assert "were made with other settings (attack: " in told
    assert '"eps": 0.06' in told
    assert {path: path.read_bytes() for path in (folder / "out").iterdir()} == before


def test_one_process_takes_over_what_another_left(folder: Path, alone: Path) -> None:
    with Store.read(alone / FILE) as whole:
        manifest, everything = whole.manifest, list(whole)
    for name, remainder in ((FILE, 0), (PART, 1)):
        with Store.create(folder / "out" / name, manifest) as store:
            store.absorb([run for run in everything[:-9] if run[1] % 2 == remainder], {})
    cli.main([*COMMAND, *SETTINGS])
    assert results(folder / "out") == results(alone)
    assert not (folder / "out" / PART).exists()
    with Store.read(folder / "out" / FILE) as store:
        seconds = {(attack, batch): run.seconds for attack, batch, run in store}
    assert all(seconds[attack, batch] == run.seconds for attack, batch, run in everything[:-9])


def test_part_of_another_evaluation_is_refused(folder: Path, alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(alone, folder / "out")
    with Store.read(folder / "out" / FILE) as store:
        manifest = store.manifest
    Store.create(folder / "out" / PART, manifest | {"weights": "another's"}).close()
    before = {path: path.read_bytes() for path in (folder / "out").iterdir()}
    with pytest.raises(SystemExit) as end:
        cli.main([*COMMAND, *SETTINGS])
    assert end.value.code == 2
    assert "were made of another model" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (folder / "out").iterdir()} == before


def test_one_process_does_not_do_the_work_of_two() -> None:
    with pytest.raises(InputError, match="start it on each machine with torchrun --nnodes 1 --nproc-per-node 2"):
        launch(2, 1, "cpu")


@pytest.mark.parametrize(("devices", "nodes", "message"), [(0, 1, "devices is 0"), (1, 0, "nodes is 0")])
def test_no_processes_are_refused(devices: int, nodes: int, message: str) -> None:
    with pytest.raises(InputError, match=f"{message}; give 1 or more"):
        launch(devices, nodes, "cpu")


def test_more_devices_than_there_are_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(InputError, match="devices is 3, and this machine has 2 for CUDA; ask for fewer"):
        launch(3, 1, "cuda")
