"""How long each experiment takes from nothing, as it was measured: what `robustdeq reproduce --list` says.

`python -m robustdeq.study.times FOLDER …` writes it anew from the folders of reproductions.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path

from robustdeq.base.files import write_text
from robustdeq.study.panel import Reproduction

FILE = "times.json"


@dataclass(frozen=True)
class Time:
    """How long an experiment took.

    Args:
        seconds: with all trainings and measurements that it needs, but for models whose weights were given.
        images: how many were attacked.
        device: where.
        threads: of the CPU.
        given: whether weights were given.
    """

    seconds: float
    images: int
    device: str
    threads: int
    given: bool


Times = dict[str, dict[str, Time]]


def measured_times() -> Times:
    """The times that are known, by scale and experiment."""
    known = json.loads((files("robustdeq.study") / FILE).read_text(encoding="utf-8"))
    return {scale: {name: Time(**time) for name, time in times.items()} for scale, times in known.items()}


def collect(folders: Iterable[Path]) -> Times:
    """The times of reproductions that were stored, by scale and experiment.

    Args:
        folders: of reproductions; where two hold the same experiment at the same scale, the first counts. Results of
            versions that did not measure it are left out.

    Raises:
        InputError: a file cannot be read.
    """
    times: Times = {}
    for path in (path for folder in folders for path in sorted(folder.glob("*.json"))):
        found = Reproduction.read(path)
        said = found.provenance
        if "seconds_from_nothing" not in said:
            continue
        time = Time(
            said["seconds_from_nothing"], said["images"], said["device"], said["threads"], given=bool(said["weights"])
        )
        times.setdefault(said["scale"], {}).setdefault(found.name, time)
    return times


if __name__ == "__main__":
    plain = {
        scale: {name: asdict(time) for name, time in times.items()}
        for scale, times in collect(map(Path, sys.argv[1:])).items()
    }
    write_text(Path(__file__).with_name(FILE), json.dumps(plain, indent=1) + "\n")
