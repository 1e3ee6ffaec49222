"""What the page on reliability promises is held by tests that exist, and the stored runs lost nothing."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
RUNS = ROOT / "results/reliability"


def test_every_promise_names_tests_that_exist() -> None:
    promises = [line for line in PAGE.splitlines() if line.startswith("| **")]
    assert len(promises) == 10
    for promise in promises:
        named = re.findall(r"`(tests/[\w/.]+)`", promise)
        assert named
        assert all((ROOT / name).is_file() for name in named), promise


@pytest.mark.parametrize("path", sorted(RUNS.glob("*.json")), ids=lambda path: path.stem)
def test_stored_runs_lost_nothing(path: Path) -> None:
    found = json.loads(path.read_text(encoding="utf-8"))
    bad = {
        "faults": lambda: [found["total"][name] for name in ("lost", "wrong", "crashed")],
        "fuzz": lambda: [reader["failed"] for reader in found["readers"].values()],
        "load": lambda: [found["written_beside_readers"]["torn"]],
        "machines": lambda: [len(run["failed"]) for run in found["runs"]],
    }[path.stem]()
    assert bad
    assert not any(bad)
