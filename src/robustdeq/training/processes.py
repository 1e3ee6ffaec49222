"""The processes of a run: the first one on a machine starts the others, and none waits for one that has stopped."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed

from robustdeq.base.errors import InputError

_PATIENCE = 20.0  # seconds from the end of one process in which the first one should notice by itself
_BROKEN = re.compile(r"gloo|NCCL|[Cc]onnection (was )?(closed|reset|refused)|[Bb]roken pipe")
_STOPPED = (
    "another process of this run has stopped; what it said is above, if it said anything: resume, and the run goes on "
    "from its last checkpoint."
)


def is_first_process() -> bool:
    """Whether this process was not started by another one of the same run."""
    return os.environ.get("RANK", "0") == "0" and os.environ.get("LOCAL_RANK", "0") == "0"


@contextmanager
def together(devices: int, nodes: int) -> Iterator[None]:
    """Within it the run's other processes are there, too: each runs this process's command with another LOCAL_RANK.

    Where torchrun or a cluster has started them, none is started. What goes wrong in all of them is told by the first
    one alone. Where one has stopped and communication with it never ends, as on some devices, the first one says so and
    exits with status 2.

    Args:
        devices: processes on each machine.
        nodes: how many machines.

    Raises:
        InputError: in the first process: another one has stopped.
        SystemExit: in another process, instead of an error that the first one has, too.
    """
    if devices * nodes == 1:
        yield
        return
    others = [] if "LOCAL_RANK" in os.environ else _started(devices)
    ended = threading.Event()
    threading.Thread(target=_watch, args=(others, ended), daemon=True).start()
    try:
        yield
    except BaseException as error:
        lost = isinstance(error, torch.distributed.DistError) or _BROKEN.search(str(error)) is not None
        broken = isinstance(error, RuntimeError) and (lost or any(other.poll() for other in others))
        for other in others:
            other.kill()
        if not is_first_process() and (broken or isinstance(error, InputError | KeyboardInterrupt)):
            raise SystemExit(2) from error
        if broken:
            raise InputError(_STOPPED) from error
        raise
    finally:
        ended.set()


def _started(devices: int) -> list[subprocess.Popen[bytes]]:
    """The other processes of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, LOCAL_RANK="0", NODE_RANK="0", WORLD_SIZE=str(devices))
    command = [sys.executable, *sys.orig_argv[1:]]
    return [subprocess.Popen(command, env=os.environ | {"LOCAL_RANK": str(rank)}) for rank in range(1, devices)]


def _watch(others: list[subprocess.Popen[bytes]], ended: threading.Event) -> None:
    """End this process where it does not notice by itself that another one has stopped."""
    while not ended.wait(1.0):
        if any(other.poll() for other in others) and not ended.wait(_PATIENCE):
            for other in others:
                other.kill()
            sys.stderr.write(f"robustdeq: {_STOPPED}\n")
            sys.stderr.flush()
            os._exit(2)
