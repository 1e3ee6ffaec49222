"""The example of a defense that fails: it looks perfect to PGD, and is broken by all means."""

import re
import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples/failed_defense.py"


@pytest.mark.slow
def test_a_rounded_image_hides_from_pgd_alone(capsys: pytest.CaptureFixture[str]) -> None:
    result = runpy.run_path(str(EXAMPLE))["main"](images=12, steps=60, effort=5)
    said = re.search(r"PGD on the rounded model leaves (\d+)%, and all attacks (\d+)%", capsys.readouterr().out)
    assert said is not None
    naive, worst = map(int, said.groups())
    by_chance = 100 * 2 / 12  # a random start may turn an image or two
    assert abs(naive - 100 * result.clean[1].mean()) <= by_chance + 0.5
    assert worst <= naive - 20
    assert "operations without a derivative" in [check.name for check in result.checks if not check.passed]
