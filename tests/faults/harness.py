"""Faults in their hundreds against the three commands: nothing may be lost, and nothing wrong.

`make faults N=1000` throws a thousand. A trial throws one to three faults of a kind at one command in one folder, lets
the command go on, and compares what it leaves with what an undisturbed run leaves. A commit that is made twice had been
lost. The seed decides which faults come, the machine where exactly they strike.
"""

import argparse
import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from children import Child, Commit, Ending, nothing
from rich.console import Console
from rich.table import Table
from victims import VICTIMS, Victim, prepare

from robustdeq import cli
from robustdeq.base.errors import InputError
from robustdeq.base.files import write_text

YEAR = 365 * 24 * 3600


@dataclass
class Tally:
    """What became of the faults of one kind in one command.

    Attributes:
        injected: how many faults struck.
        refused: how often the command ended with one sentence on what is wrong.
        resumed: after how many faults it went on, and ended as if nothing had been.
        made_again: how many commits of a damaged file were made again.
        lost: how many commits were gone.
        wrong: how many trials ended in something else, or not at all, or a refusal changed the damaged file.
        crashed: how often a command ended in any other way than to finish, to refuse or to be stopped.
    """

    injected: int = 0
    refused: int = 0
    resumed: int = 0
    made_again: int = 0
    lost: int = 0
    wrong: int = 0
    crashed: int = 0


@dataclass(frozen=True)
class Reference:
    """An undisturbed run: what it leaves, how long it takes in seconds, how often it writes, how many bytes."""

    outcome: Any
    seconds: float
    writes: int
    size: int


@dataclass
class Trial:
    """One command in one folder, at which faults are thrown."""

    victim: Victim
    reference: Reference
    folder: Path
    rng: np.random.Generator
    tally: Tally
    complaints: list[str] = field(default_factory=list)
    committed: set[Commit] = field(default_factory=set)
    struck: int = 0
    damaged: bool = False
    shared: bool = False

    def start(self, before: Callable[[], None] = nothing, strike: Callable[[], None] = nothing) -> Child:
        """Run the command, from where it stands."""
        return Child(self.victim.command(self.folder), before, strike)

    def take(self, ending: Ending) -> Ending:
        """Note how a command ended, and which commits it has made twice."""
        if ending.crashed:
            self.tally.crashed += 1
            self.complain(f"crashed with status {ending.status}", ending.said)
        self.tally.refused += ending.refused
        again = [commit for commit in ending.commits if commit in self.committed]
        unshared = [commit for commit in again if not self.shared or commit[0] == "checkpoint"]
        if self.damaged:
            self.tally.made_again += len(again)
        elif unshared:
            self.tally.lost += len(unshared)
            self.complain(f"commits made twice: {unshared}", ending.said)
        self.committed.update(ending.commits)
        return ending

    def half_done(self) -> None:
        """Run the command, and kill it somewhere."""
        child = self.start()
        if child.listen(self.rng.uniform(0, 1.2) * self.reference.seconds):
            child.hit(signal.SIGKILL)
        self.take(child.end())

    def finish(self) -> bool:
        """Let the command go on to its end, and say whether it is what an undisturbed run leaves."""
        ending = self.take(self.start().end())
        if ending.status == 0 and (found := self._outcome()) == self.reference.outcome:
            return found is not None
        self.tally.wrong += 1
        self.complain("ended in another outcome" if ending.status == 0 else "did not go on", ending.said)
        return False

    def right(self) -> bool | None:
        """Whether the outcome is right; None where a damaged part of it is refused."""
        found = self._outcome()
        return None if found is None else found == self.reference.outcome

    def _outcome(self) -> Any:
        try:
            return self.victim.outcome(self.folder)
        except InputError:
            return None

    def complain(self, what: str, said: str) -> None:
        """Keep what went wrong, for people."""
        place = str(Path.cwd())
        self.complaints.append(f"{what}\n{said}".replace(place, "…").replace(str(Path(__file__).parents[2]), "…"))


@dataclass(frozen=True)
class Disk:
    """A small disk that can be filled and made read-only, where it may be mounted."""

    place: Path
    mounted: bool

    @contextmanager
    def full(self, free: int) -> Iterator[None]:
        """Within it so many bytes are free."""
        ballast = self.place / "ballast"
        left = shutil.disk_usage(self.place).free - free
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(left, 1))
        try:
            yield
        finally:
            ballast.unlink()

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Within it nothing can be written."""
        self._remount("ro")
        try:
            yield
        finally:
            self._remount("rw")

    def _remount(self, how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", self.place], check=True)


@contextmanager
def disk(place: Path, mount: bool) -> Iterator[Disk]:
    """Mount a disk of 64 MB in the memory, where that is asked for and allowed."""
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)]
    able = mount and shutil.which("mount") is not None
    mounted = able and subprocess.run(command, capture_output=True).returncode == 0
    try:
        yield Disk(place, mounted)
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", place], check=True)


def at_write(number: int, how: signal.Signals) -> Callable[[], None]:
    """What sends a process a signal of its own at the write, or the commit, of that number."""
    writes = itertools.count()

    def strike() -> None:
        if next(writes) == number:
            os.kill(os.getpid(), how)

    return strike


def signalled(how: signal.Signals, times: int, trial: Trial, disk: Disk) -> None:
    """A signal at some moment or at some write; the second one soon after it."""
    if times == 1 and trial.rng.random() < 0.5:
        child = trial.start(strike=at_write(int(trial.rng.integers(trial.reference.writes)), how))
    else:
        child = trial.start()
        for pause in (trial.reference.seconds, 0.1)[:times]:
            if child.listen(trial.rng.uniform(0, 1) * pause):
                child.hit(how)
    trial.struck += trial.take(child.end()).status != 0


def full(trial: Trial, disk: Disk) -> None:
    """A disk that becomes full somewhere in the run."""
    with disk.full(int(trial.rng.uniform(0, trial.reference.size))):
        trial.struck += trial.take(trial.start().end()).status != 0


def read_only(trial: Trial, disk: Disk) -> None:
    """A disk that cannot be written any more."""
    trial.half_done()
    before = _files(trial.folder)
    with disk.read_only():
        trial.struck += trial.take(trial.start().end()).status != 0
    if _files(trial.folder) != before:
        trial.tally.wrong += 1
        trial.complain("a read-only disk was written", "")


def cut(content: bytes, rng: np.random.Generator) -> bytes:
    """Content that ends too early."""
    return content[: int(rng.integers(len(content)))]


def flipped(content: bytes, rng: np.random.Generator) -> bytes:
    """Content with another bit somewhere."""
    changed = bytearray(content)
    changed[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def damaged(damage: Callable[[bytes, np.random.Generator], bytes], trial: Trial, disk: Disk) -> None:
    """A file of the folder that is not what it was; a refusal leaves it as it is, and goes when the file is back."""
    trial.half_done()
    kinds: dict[str, list[Path]] = {}
    for path in sorted(trial.folder.rglob("*")):
        if path.is_file() and path.stat().st_size:
            kinds.setdefault(path.suffix, []).append(path)
    if not kinds:
        return
    files = kinds[str(trial.rng.choice(sorted(kinds)))]
    file = files[int(trial.rng.integers(len(files)))]
    was, trial.damaged = file.read_bytes(), True
    file.write_bytes(now := damage(was, trial.rng))
    before = _files(trial.folder)
    ending = trial.take(trial.start().end())
    trial.struck += 1
    right = trial.right() if ending.status == 0 else None
    if ending.refused and before.items() - _files(trial.folder).items() - _sqlite(before):
        trial.tally.wrong += 1
        trial.complain(f"refused, but changed {before.keys() - _files(trial.folder).keys()}", ending.said)
    if right is None and file.is_file() and file.read_bytes() == now:
        file.write_bytes(was)
    if right is False:
        trial.tally.wrong += 1
        trial.complain(f"went on from a damaged {file.relative_to(trial.folder)} to something else", ending.said)


def _sqlite(files: Mapping[str, bytes]) -> set[tuple[str, bytes]]:
    """What SQLite may put in order when it opens a store: its logs, and the store that takes them over."""
    logged = {name.removesuffix("-wal") for name in files if name.endswith("-wal")}
    return {item for item in files.items() if item[0].endswith(("-wal", "-shm")) or item[0] in logged}


def clock(trial: Trial, disk: Disk) -> None:
    """A clock that jumps by years, back and forth, in the run and in the times of the files."""
    seed = int(trial.rng.integers(2**32))

    def jumping() -> None:
        jumps, usual = np.random.default_rng(seed), time.time
        time.time = lambda: usual() + jumps.uniform(-30, 30) * YEAR
        time.time_ns = lambda: int(time.time() * 1e9)

    child = trial.start(jumping)
    if child.listen(trial.rng.uniform(0, 1) * trial.reference.seconds):
        child.hit(signal.SIGKILL)
    trial.take(child.end())
    for path in trial.folder.rglob("*"):
        moment = time.time() + trial.rng.uniform(-30, 30) * YEAR
        os.utime(path, (moment, moment))
    trial.struck += 1


def moved(trial: Trial, disk: Disk) -> None:
    """A folder that lies elsewhere when the command goes on."""
    trial.half_done()
    if trial.folder.is_dir():
        trial.folder = trial.folder.rename(trial.folder.with_name(f"{trial.folder.name}-moved"))
        trial.struck += 1


def two(trial: Trial, disk: Disk) -> None:
    """The same command twice at once."""
    trial.shared = True
    one = trial.start()
    one.listen(trial.rng.uniform(0, 0.5) * trial.reference.seconds)
    other = trial.start()
    trial.struck += one.listen(0.01)
    ends = [trial.take(one.end()), trial.take(other.end())]
    if not any(end.status == 0 for end in ends):
        trial.tally.wrong += 1
        trial.complain("of two at once neither finished", "\n".join(end.said for end in ends))


Fault = Callable[[Trial, Disk], None]
FAULTS: dict[str, Fault] = {
    "SIGKILL": partial(signalled, signal.SIGKILL, 1),
    "SIGTERM": partial(signalled, signal.SIGTERM, 1),
    "Ctrl-C": partial(signalled, signal.SIGINT, 1),
    "Ctrl-C twice": partial(signalled, signal.SIGINT, 2),
    "full disk": full,
    "read-only disk": read_only,
    "truncated file": partial(damaged, cut),
    "flipped bit": partial(damaged, flipped),
    "clock jumps": clock,
    "moved folder": moved,
    "two at once": two,
}
NEED_MOUNT = ("full disk", "read-only disk")


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def undisturbed(victim: Victim) -> Reference:
    """Run a command here, so that children find all that it imports, and in a child; what both leave is the same."""
    here, there = (Path(f"{victim.name}-{place}") for place in ("here", "there"))
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        cli.main(victim.command(here))
    begun = time.monotonic()
    ending = Child(victim.command(there)).end()
    seconds, outcome = time.monotonic() - begun, victim.outcome(there)
    assert ending.status == 0, ending.said
    assert outcome == victim.outcome(here), f"{victim.name} does not end twice in the same"
    return Reference(outcome, seconds, ending.writes + 2 * len(ending.commits), sum(map(len, _files(there).values())))


@contextmanager
def setting(victims: Sequence[str], mount: bool) -> Iterator[tuple[Disk, dict[str, Reference]]]:
    """A place for trials, with an undisturbed run of each command; within it this is the current folder."""
    before, said = Path.cwd(), sys.argv
    with tempfile.TemporaryDirectory() as name, disk(Path(name), mount) as place:
        prepare(Path(name))
        try:
            yield place, {victim: undisturbed(VICTIMS[victim]) for victim in victims}
        finally:
            os.chdir(before)
            sys.argv = said


def throw(
    faults: int, seed: int, kinds: Sequence[str] = tuple(FAULTS), victims: Sequence[str] = tuple(VICTIMS)
) -> tuple[dict[tuple[str, str], Tally], list[str]]:
    """Throw so many faults, kind by kind and command by command in turn.

    Args:
        faults: how many are to strike, unless it is interrupted.
        seed: decides which.
        kinds: of faults.
        victims: the names of the commands.

    Returns:
        A tally per kind and command, and what went wrong in words. Kinds that need a disk of their own are left out
        where none may be mounted, and then have no tally.
    """
    complaints: list[str] = []
    with setting(victims, mount=bool({*kinds} & {*NEED_MOUNT})) as (place, references):
        possible = [kind for kind in kinds if place.mounted or kind not in NEED_MOUNT]
        tallies = {(kind, victim): Tally() for kind in possible for victim in victims}
        with suppress(KeyboardInterrupt):
            for number, (kind, victim) in enumerate(itertools.cycle(tallies)):
                if sum(tally.injected for tally in tallies.values()) >= faults:
                    break
                folder, rng = Path(f"trial-{number}").absolute(), np.random.default_rng([seed, number])
                trial = Trial(VICTIMS[victim], references[victim], folder, rng, tallies[kind, victim])
                _try(kind, trial, place)
                complaints += [f"trial {number}, {kind}, {victim}: {complaint}" for complaint in trial.complaints]
                shutil.rmtree(trial.folder, ignore_errors=True)
    return tallies, complaints


def _try(kind: str, trial: Trial, place: Disk) -> None:
    for _ in range(int(trial.rng.integers(1, 4))):
        FAULTS[kind](trial, place)
    right = trial.finish()
    trial.tally.injected += trial.struck
    trial.tally.resumed += trial.struck if right else 0


def table(tallies: Mapping[tuple[str, str], Tally]) -> Table:
    """The tallies, a row per kind of fault and command."""
    shown = Table("fault", "command", *(name.replace("_", " ") for name in asdict(Tally())), title="faults")
    for (kind, victim), tally in tallies.items():
        shown.add_row(kind, victim, *map(str, asdict(tally).values()))
    return shown


def main() -> None:
    """Throw faults, show what became of them, and write it down; the status is 1 where something was lost or wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=1000, help="how many faults are to strike")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", default=[*FAULTS], choices=[*FAULTS])
    parser.add_argument("--victims", nargs="*", default=[*VICTIMS], choices=[*VICTIMS])
    parser.add_argument("--output", type=Path, default=Path("results/reliability/faults.json"))
    given = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    output, begun = given.output.absolute(), time.monotonic()
    torch.set_num_threads(1)
    arguments = " ".join(sys.argv[1:])
    tallies, complaints = throw(given.n, given.seed, given.kinds, given.victims)
    console = Console(width=max(Console().width, 120))
    console.print(table(tallies))
    for complaint in complaints:
        console.print(complaint, markup=False, highlight=False, soft_wrap=True)
    found = {
        "command": f"python tests/faults/harness.py {arguments}",
        "seed": given.seed,
        "left_out": [kind for kind in given.kinds if not any(kind == known for known, _ in tallies)],
        "seconds": round(time.monotonic() - begun, 1),
        "versions": {name: version(name) for name in ("robustdeq", "torch", "lightning")},
        "total": {name: sum(getattr(tally, name) for tally in tallies.values()) for name in asdict(Tally())},
        "faults": [{"fault": kind, "command": victim} | asdict(tally) for (kind, victim), tally in tallies.items()],
        "complaints": complaints,
    }
    write_text(output, json.dumps(found, indent=1) + "\n")
    sys.exit(any(found["total"][name] for name in ("lost", "wrong", "crashed")))


if __name__ == "__main__":
    main()
