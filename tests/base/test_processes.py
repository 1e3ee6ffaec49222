"""The processes of a run are torchrun's: they end together, and what went wrong in them is told once."""

import logging
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from robustdeq.base.errors import InputError
from robustdeq.base.processes import STOPPED, Alone, check_world, leave, together, torchrun

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
PREAMBLE = "import os, signal, sys, time\nfirst = os.environ['RANK'] == '0'\n"


@pytest.fixture(autouse=True)
def signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The handlers that torchrun replaces, and the loggers that it silences, as they were."""
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    usual = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    logging.disable(logging.NOTSET)
    for number, handler in usual.items():
        signal.signal(number, handler)


def run(program: str, *arguments: str) -> None:
    torchrun(["-c", PREAMBLE + program, *arguments], 2)


def test_every_process_runs_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run("open(os.path.join(sys.argv[1], os.environ['RANK']), 'w').write(os.environ['WORLD_SIZE'])", str(tmp_path))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"0": "2", "1": "2"}
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("lost", ["first", "not first"])
def test_lost_process_ends_the_others_in_one_sentence(lost: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError) as error:
        run(f"os.kill(os.getpid(), signal.SIGKILL) if {lost} else time.sleep(600)")
    assert str(error.value) == STOPPED
    assert capfd.readouterr() == ("", "")


def test_what_a_process_says_before_it_fails_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="another process of this run has stopped; what it said is above"):
        run("time.sleep(600) if first else sys.exit('the reason')")
    assert capfd.readouterr().err.strip() == "the reason"


def test_sentence_that_processes_leave_is_told_once(capfd: pytest.CaptureFixture[str]) -> None:
    told = "from robustdeq.base.processes import leave\nleave('{}')\nsys.exit(2)\n"
    with pytest.raises(InputError, match=r"^the disk is full\.$"):
        run(told.format("the disk is full."))
    assert capfd.readouterr() == ("", "")


def test_interruption_reaches_every_process(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    here = "os.path.join(sys.argv[1], '{}' + os.environ['RANK'])"
    wait = f"""
open({here.format("at")}, 'w').close()
try:
    while first and not os.path.exists(os.path.join(sys.argv[1], 'at1')):
        time.sleep(0.05)
    if first:
        os.kill(os.getppid(), signal.SIGINT)
    time.sleep(600)
except KeyboardInterrupt:
    open({here.format("interrupted")}, 'w').close()
"""
    with pytest.raises(KeyboardInterrupt):
        run(wait, str(tmp_path))
    assert {"interrupted0", "interrupted1"} <= {path.name for path in tmp_path.iterdir()}
    assert capfd.readouterr() == ("", "")


def test_sentence_is_left_for_torchrun_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    assert not leave("nobody reads this.")
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    assert leave("somebody reads this.")
    assert "somebody reads this." in (tmp_path / "error.json").read_text()


def test_fewer_or_more_processes_than_asked_for_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_world(1, 1)
    start = "start it on each machine with torchrun --nnodes {} --nproc-per-node {}."
    with pytest.raises(Alone, match="devices is 2 and nodes is 1, .* " + start.format(1, 2)) as alone:
        check_world(2, 1)
    assert alone.value.devices == 2
    with pytest.raises(InputError, match=start.format(4, 8)) as several:
        check_world(8, 4)
    assert not isinstance(several.value, Alone)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    monkeypatch.setenv("WORLD_SIZE", "4")
    check_world(2, 2)
    for devices in (1, 2):
        with pytest.raises(InputError, match="the number of processes here is 4") as other:
            check_world(devices, 1)
        assert not isinstance(other.value, Alone)


def test_broken_communication_is_told_from_other_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4321")
    with pytest.raises(RuntimeError, match="closed by peer"), together():
        raise broken
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    with pytest.raises(InputError, match="another process of this run has stopped"), together():
        raise broken
    with pytest.raises(RuntimeError, match="out of memory"), together():
        raise RuntimeError("out of memory")
