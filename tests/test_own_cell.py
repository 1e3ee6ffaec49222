"""The example of one's own cell runs."""

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "own_cell.py"


def test_example_prints_the_grid(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLE))["main"](training_steps=1, images=2, attack_steps=1)
    printed = capsys.readouterr().out
    for word in ("clean", "final", "early (z_3)", "ensemble", "worst case"):
        assert word in printed
