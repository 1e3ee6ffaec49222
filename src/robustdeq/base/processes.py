"""The processes of a run: torchrun (torch.distributed.run) starts them, and ends all where one has stopped."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import re
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from robustdeq.base.errors import InputError, check_counts

STOPPED = (
    "another process of this run has stopped; what it said is above, if it said anything: run the same command again, "
    "a training with --resume, and it goes on."
)
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux
_BROKEN = re.compile(r"gloo|NCCL|[Cc]onnection (was )?(closed|reset|refused)|[Bb]roken pipe")


class Alone(InputError):
    """Several processes are asked for on this machine, and this one was started by itself.

    Args:
        sentence: what to do.
        devices: how many processes there should be.
    """

    def __init__(self, sentence: str, devices: int) -> None:
        super().__init__(sentence)
        self.devices = devices


def check_devices(kind: str, devices: int, nodes: int) -> None:
    """Raise `InputError` where a number is not positive, or this machine has not so many devices of the kind."""
    import torch

    check_counts(devices=devices, nodes=nodes)
    if kind == "cuda" and devices > torch.cuda.device_count():
        raise InputError(
            f"devices is {devices}, and this machine has {torch.cuda.device_count()} for CUDA; ask for fewer, or for "
            "the device cpu."
        )


def check_world(devices: int, nodes: int) -> None:
    """Raise `InputError` unless the run has so many processes; `Alone` where torchrun has yet to start them here."""
    elastic = "TORCHELASTIC_RUN_ID" in os.environ
    world = int(os.environ["WORLD_SIZE"]) if elastic else 1
    if devices * nodes == world:
        return
    sentence = (
        f"devices is {devices} and nodes is {nodes}, and the number of processes here is {world}; start it on each "
        f"machine with torchrun --nnodes {nodes} --nproc-per-node {devices}."
    )
    raise InputError(sentence) if elastic or nodes > 1 else Alone(sentence, devices)


def is_first_process() -> bool:
    """Whether this process is the one that shows and writes what a run has to show."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def together() -> Iterator[None]:
    """Within it processes communicate; where another one has stopped, an `InputError` says so."""
    try:
        yield
    except RuntimeError as error:
        if "TORCHELASTIC_RUN_ID" not in os.environ or not _BROKEN.search(f"{type(error).__name__} {error}"):
            raise
        raise InputError(STOPPED) from error


def torchrun(command: Sequence[str], devices: int) -> None:
    """Run Python in so many processes of this machine, and end them all where one stops before its time.

    From then on this process serves that alone: it logs nothing, and signals are for the others.

    Args:
        command: the arguments of Python.
        devices: how many processes.

    Raises:
        InputError: one has stopped; the sentence is that of `leave`, where one has left any.
        KeyboardInterrupt: they were interrupted.
        SystemExit: they were ended by another signal.
    """
    logging.disable()
    import torch
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", str(max(torch.get_num_threads() // devices, 1)))
    with tempfile.TemporaryDirectory() as folder:
        machine = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=devices,
            logs_specs=DefaultLogsSpecs(folder),
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
        )
        try:
            elastic_launch(machine, sys.executable)(*command)
        except SignalException as stop:
            raise KeyboardInterrupt if stop.sigval == signal.SIGINT else SystemExit(128 + stop.sigval) from None
        except ChildFailedError:
            left = [json.loads(file.read_text("utf-8"))["message"] for file in Path(folder).rglob("error.json")]
            raise InputError(next((sentence for sentence in left if sentence != STOPPED), STOPPED)) from None


def leave(sentence: str) -> bool:
    """Leave a sentence for torchrun, which tells it once for all; False where this process has no torchrun."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file:
        from robustdeq.base.files import write_text

        write_text(Path(file), json.dumps({"message": sentence, "timestamp": int(time.time())}))
    return bool(file)


def follow() -> None:
    """Make a process of torchrun's end with it (on Linux), at once when told to, and only the first one warn."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    signal.signal(signal.SIGTERM, _end)
    if not is_first_process():
        logging.disable(logging.WARNING)


def _end(number: int, frame: object) -> NoReturn:
    """End at once, whatever is under way: an exception may strike where it is shown as a traceback."""
    if sys.stdout.isatty():
        os.write(1, b"\x1b[?25h")  # the cursor, which a bar hides
    os._exit(128 + number)
