"""Faults lose nothing and change nothing; and one who loses a commit, or ends in something else, is found out."""

import signal
from pathlib import Path

import numpy as np
import pytest
from harness import FAULTS, NEED_MOUNT, VICTIMS, Tally, Trial, at_write, setting, throw

from robustdeq.evaluation.store import Finished, Store
from robustdeq.training.record import Record

HERE = [kind for kind in FAULTS if kind not in NEED_MOUNT]


def killed_half_way(victim: str) -> Tally:
    """What becomes of a command that is killed at the middle one of its writes, and goes on."""
    with setting([victim], mount=False) as (_, references):
        reference, tally = references[victim], Tally()
        trial = Trial(VICTIMS[victim], reference, Path("trial"), np.random.default_rng(0), tally)
        ending = trial.take(trial.start(strike=at_write(reference.writes // 2, signal.SIGKILL)).end())
        assert ending.status == -signal.SIGKILL
        trial.finish()
    return tally


@pytest.mark.parametrize(
    ("faults", "kinds", "victims"),
    [
        (5, HERE[4:], ["train"]),
        (5, HERE[:5], ["evaluate"]),
        pytest.param(30, HERE, [*VICTIMS], marks=pytest.mark.slow),
    ],
    ids=["train", "evaluate", "all"],
)
def test_faults_lose_nothing_and_change_nothing(faults: int, kinds: list[str], victims: list[str]) -> None:
    tallies, complaints = throw(faults, 0, kinds, victims)
    assert complaints == []
    assert sum(tally.injected for tally in tallies.values()) >= faults
    assert all(tally.lost == tally.wrong == tally.crashed == 0 for tally in tallies.values())
    assert all(tally.resumed == tally.injected for tally in tallies.values())


def test_commit_that_is_lost_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert killed_half_way("evaluate") == Tally()

    def forget(self: Store, attack: str, batch: int, run: Finished, *_: object) -> None:
        self._known[attack, batch] = run

    monkeypatch.setattr(Store, "commit", forget)
    tally = killed_half_way("evaluate")
    assert tally.lost > 0
    assert tally.wrong == tally.crashed == 0


def test_end_in_something_else_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Record, "state_dict", lambda self: {"seconds": 0.0, "lines": []})
    tally = killed_half_way("train")
    assert tally.wrong == 1
    assert tally.lost == tally.crashed == 0
