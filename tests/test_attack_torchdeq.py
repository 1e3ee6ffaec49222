"""The example of a TorchDEQ model: the ready-made attack overrates it."""

import re
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_the_ready_made_attack_leaves_more_of_a_model_of_torchdeq_than_all_attacks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    result = runpy.run_path(str(EXAMPLES / "attack_torchdeq.py"))["main"]()
    said = re.search(r"The ready-made attack leaves (\d+)%, and all attacks (\d+)%", capsys.readouterr().out)
    assert said is not None
    usual, worst = map(int, said.groups())
    assert result.clean[0].mean() > 0.85
    assert worst == round(100 * result.worst_case[0])
    assert worst <= usual - 5
