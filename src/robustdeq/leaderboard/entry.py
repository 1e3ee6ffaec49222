"""A row of the leaderboard, as it is kept: what was measured of a model, image by image, and where it comes from."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from robustdeq.base.errors import InputError
from robustdeq.base.files import write_text
from robustdeq.base.plain import made_of, read_json
from robustdeq.base.threat import ThreatModel
from robustdeq.evaluation.store import digits, parsed

Outcome = Bool[np.ndarray, "samples"]
_OUTCOMES = ("clean", "ready_made", "standing", "certified")


def row_file(folder: Path, name: str) -> Path:
    """Where the row of that name is kept in a folder of rows."""
    return folder / f"{re.sub(r'[^0-9a-z.]+', '-', name.lower()).strip('-.') or 'entry'}.json"


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """What was found of a model.

    Attributes:
        name: of the row.
        training: how it was trained.
        data: what its images are.
        eps: of the threat model.
        norm: of the threat model.
        clean: which images it classifies correctly; where the vote among noisy copies is certified, which that does.
        ready_made: which of them withstand the attack that needs no thought about the solver; None without one.
        standing: which withstand every adversary, the submitted ones and our own; None where it was not attacked.
        certified: which are certified; None without a certificate.
        certificate: its title.
        reported: what the protocol of the model's own paper leaves, in %, as its authors say; None where unknown.
        protocol: that protocol.
        parameters: how many weights it has.
        evaluations: of f, for one image; None where it is no DEQ.
        residual: ‖f(z) − z‖ / ‖f(z)‖ of the final state, the mean over the images; None where it is no DEQ.
        failed: the checks of our own attacks that failed.
        source: the address of a paper or of code.
        command: what made the adversaries.
        provenance: of the judgement.
    """

    name: str
    training: str
    data: str
    eps: float
    norm: str
    clean: Outcome
    ready_made: Outcome | None
    standing: Outcome | None
    certified: Outcome | None
    certificate: str
    reported: float | None
    protocol: str
    parameters: int
    evaluations: int | None
    residual: float | None
    failed: tuple[str, ...] = ()
    source: str = ""
    command: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write it as JSON, whole or not at all; outcomes of images as strings of 0 and 1."""
        outcomes = {name: found if (found := getattr(self, name)) is None else digits(found) for name in _OUTCOMES}
        write_text(path, json.dumps(asdict(self) | outcomes, indent=1, ensure_ascii=False, allow_nan=False) + "\n")

    @classmethod
    def read(cls, path: Path) -> Entry:
        """Read what `save` wrote; raises `InputError` where the file cannot be read or holds something else."""
        try:
            plain = read_json(path)
            outcomes = {name: None if plain[name] is None else parsed(plain[name]) for name in _OUTCOMES}
            found = made_of(cls, plain, **outcomes)
            ThreatModel(found.eps)
            counts = {len(outcome) for outcome in outcomes.values() if outcome is not None}
            if counts != {len(found.clean)} or 0 in counts:
                raise ValueError("outcomes of different images, or of none")
            return found
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}).") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} holds no entry; make it with `robustdeq submit`.") from error
