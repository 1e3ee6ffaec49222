"""Damaged files: every reader ends as accepted or in one sentence, and the harness sees where one does not."""

import time
from pathlib import Path

import fuzz
import pytest

from robustdeq.base.errors import InputError

READERS = fuzz.readers()


@pytest.mark.parametrize("name", READERS)
def test_no_damaged_file_ends_in_anything_but_one_sentence(name: str) -> None:
    tally = fuzz.fuzz(READERS[name], inputs=30, seed=1)
    assert tally.failed == 0, tally.failures
    assert tally.inputs == 30 and tally.refused > 0


def missing_key(path: Path) -> None:
    raise KeyError(path.name)


def endless(path: Path) -> None:
    time.sleep(60)


def large(path: Path) -> object:
    return bytearray(2 * fuzz.MEMORY)


def stray(path: Path) -> None:
    (path.parents[1] / "stray").write_text("x")


def two_lines(path: Path) -> None:
    raise InputError("one\ntwo")


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (missing_key, "KeyError"),
        (endless, "more than 1 s"),
        (large, "MemoryError"),
        (stray, "outside its folder"),
        (two_lines, "several lines"),
    ],
)
def test_reader_that_fails_is_seen(read: fuzz.Read, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fuzz, "SECONDS", 1)
    tally = fuzz.fuzz(fuzz.Reader("file", (b"content",), read), inputs=2, seed=0, kept=tmp_path)
    assert (tally.inputs, tally.failed) == (2, 2)
    assert said in tally.failures[0]
    assert len([*tmp_path.iterdir()]) == 2


def test_reader_that_refuses_and_accepts_is_counted() -> None:
    def picky(path: Path) -> None:
        if path.read_bytes() != b"content":
            raise InputError("it is damaged.")

    tally = fuzz.fuzz(fuzz.Reader("file", (b"content",), picky), inputs=60, seed=0)
    assert tally.refused + tally.accepted == 60 and tally.refused > 30 and tally.failed == 0
