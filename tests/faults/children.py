"""Commands in forked children of a warm process: what they say, how they end, and which commits they tell of."""

import json
import os
import selectors
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from robustdeq import cli
from robustdeq.evaluation.store import Numbers, Store
from robustdeq.training.checkpoints import SealedCheckpoints

PATIENCE = 120.0
Commit = tuple[str, ...]
Strike = Callable[[], None]


def nothing() -> None:
    """No fault."""


@dataclass
class Ending:
    """How a command ended.

    Attributes:
        status: as a shell sees it; minus the number of the signal where one ended it.
        said: what it wrote on standard error.
        commits: what it told to be finished, in order.
        writes: how often it was about to write, as far as Python sees it.
    """

    status: int
    said: str
    commits: list[Commit]
    writes: int

    @property
    def refused(self) -> bool:
        """Whether it ended with one sentence on what is wrong."""
        return self.status == 2 and self._sentences == 1

    @property
    def crashed(self) -> bool:
        """Whether it ended in another way than to finish, to refuse, or to be stopped."""
        stopped = self.status in (-signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM)
        interrupted = self.status == 128 + signal.SIGINT and self._sentences == 1
        return not (self.status == 0 or self.refused or stopped or interrupted) or "Traceback" in self.said

    @property
    def _sentences(self) -> int:
        return self.said.count("robustdeq: ")  # behind a bar, where a second Ctrl-C came before that was taken down


@dataclass
class Child:
    """A command under way in a child.

    Args:
        command: the command.
        before: done in the child before it begins.
        strike: done in the child whenever it is about to write, or has just committed.
    """

    command: Sequence[str]
    before: Callable[[], None] = nothing
    strike: Strike = nothing
    _heard: dict[int, bytearray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        said, told = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self._be(said[1], told[1])
        os.close(said[1]), os.close(told[1])
        self._pipes = (said[0], told[0])
        self._heard = {pipe: bytearray() for pipe in self._pipes}
        self._selector = selectors.DefaultSelector()
        for pipe in self._pipes:
            self._selector.register(pipe, selectors.EVENT_READ)

    def listen(self, seconds: float) -> bool:
        """Hear what it says for so long; whether it is still under way."""
        until = time.monotonic() + seconds
        while self._selector.get_map() and (left := until - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                if piece := os.read(key.fd, 1 << 16):
                    self._heard[key.fd] += piece
                else:
                    self._selector.unregister(key.fd)
                    os.close(key.fd)
        return bool(self._selector.get_map())

    def hit(self, how: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, how)

    def end(self) -> Ending:
        """Wait until it ends; one that does not is killed, and counts as crashed."""
        hangs = self.listen(PATIENCE)
        if hangs:
            self.hit(signal.SIGKILL)
            self.listen(PATIENCE)
        status = 1 if hangs else os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        said, told = (self._heard[pipe].decode(errors="replace") for pipe in self._pipes)
        events = [json.loads(line) for line in told.splitlines() if line.endswith("]")]
        commits = [tuple(event) for event in events if event]
        return Ending(status, said + "it hung\n" * hangs, commits, len(events) - len(commits))

    def _be(self, said: int, told: int) -> NoReturn:
        status = 1
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(said, 2)
            sys.stdout, sys.stderr = (open(stream, "w", closefd=False) for stream in (1, 2))  # noqa: SIM115
            _watch(told, self.strike)
            self.before()
            status = _status(self.command)
        except KeyboardInterrupt:
            os.write(said, b"robustdeq: interrupted before it began.\n")
            status = 128 + signal.SIGINT
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)


def _status(command: Sequence[str]) -> int:
    try:
        cli.main([*command])
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except KeyboardInterrupt:
        traceback.print_exc()
        return 1
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return 0


def _watch(told: int, strike: Strike) -> None:
    """Tell of every commit once it is made, and of every write before it is; each is a moment to strike at."""

    def tell(*event: str) -> None:
        os.write(told, json.dumps(event).encode() + b"\n")

    def committed(usual: Callable[..., None], name: Callable[..., Commit]) -> Callable[..., None]:
        def commit(*given: Any, **named: Any) -> None:
            strike()
            usual(*given, **named)
            tell(*name(*given))
            strike()

        return commit

    def run(store: Store, attack: str, batch: int, *_: Any) -> Commit:
        assert store.path is not None
        return "run", store.path.parent.name, attack, str(batch)

    def note(store: Store, probe: str, batch: int, numbers: Numbers) -> Commit:
        assert store.path is not None
        return "note", store.path.parent.name, probe, str(batch)

    def checkpoint(own: SealedCheckpoints, contents: Any, path: Path) -> Commit:
        return "checkpoint", Path(path).parents[1].name, Path(path).name

    Store.commit = committed(Store.commit, run)
    Store.note = committed(Store.note, note)
    SealedCheckpoints.save_checkpoint = committed(SealedCheckpoints.save_checkpoint, checkpoint)

    def about_to(event: str, given: tuple[Any, ...]) -> None:
        if event in ("os.rename", "os.remove", "os.mkdir", "sqlite3.connect") or (
            event == "open" and isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR)
        ):
            tell()
            strike()

    sys.addaudithook(about_to)
