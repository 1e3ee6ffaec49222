"""The headline run goes from trainings to pages by one command, here in the smallest size there is."""

import json
import runpy
from pathlib import Path

import pytest

from robustdeq.study import EXPERIMENTS

EXAMPLE = Path(__file__).parents[1] / "examples" / "headline.py"
BRIEF = ["--schedule.max_steps", "2", "--schedule.validation_images", "8", "--schedule.validations", "1"]
UNCOMPILED = ["--execution.compiled", "false"]
WEAK = [
    *("-n", "4", "--batch_size", "4", "--estimators.steps", "[1]", "--estimators.dampings", "[1.0]"),
    *("--estimators.states", "1"),
    *("--strict.steps", "2", "--strict.restarts", "1", "--strict.apgd_steps", "2", "--strict.targets", "1"),
    *("--strict.queries", "2", "--strict.probe_images", "2"),
]


def test_every_command_reads_what_an_earlier_one_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = runpy.run_path(str(EXAMPLE))
    commands: list[list[str]] = []
    monkeypatch.setattr("robustdeq.cli.main", commands.append)
    example["main"]("digits", tmp_path)
    made: set[Path] = set()
    for command in commands:
        written = Path(command[command.index("--output") + 1])
        read = {Path(option) for option in command if option.startswith(str(tmp_path))} - {written}
        assert command[0] == "train" or read
        assert all(made & {path, path.parent} for path in read)
        made.add(written)
    assert [command[1] for command in commands if command[0] == "train"] == [
        "large-aligned-30min",
        "large-30min",
        "resnet18-pgdat",
    ]
    assert [command[3] for command in commands if command[0] == "evaluate"] == ["paper", "strict"] * 2
    asked = [command[1] for command in commands if command[0] == "reproduce"]
    assert asked == ["alignment", *example["EXPERIMENTS"] * 2]
    assert {*asked} <= {*EXPERIMENTS}


@pytest.mark.slow
def test_one_command_trains_measures_and_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = runpy.run_path(str(EXAMPLE))
    monkeypatch.setitem(example["main"].__globals__, "EXPERIMENTS", ("fig4",))

    example["main"](
        "digits",
        tmp_path,
        "nano",
        deq=["--model", "nano", "--architecture.tail_steps", "1", *BRIEF, *UNCOMPILED],
        network=["--architecture.blocks", "[1]", "--architecture.width", "4", *BRIEF, *UNCOMPILED],
        evaluate=["--attack.eps", "0.25", "--attack.steps", "2", *WEAK],
        reproduce=[*WEAK, "--effort.steps", "2"],
    )

    weights = {name: tmp_path / name / "model.safetensors" for name in ("aligned", "unrolled", "resnet18")}
    assert len({path.read_bytes() for path in weights.values()}) == 3
    for name in ("aligned", "unrolled"):
        for protocol in ("paper", "strict"):
            table = json.loads((tmp_path / f"{name}-{protocol}" / "results.json").read_text())
            assert table["samples"] == 4
            assert [row["name"] for row in table["defenses"]][::2] == ["final", "ensemble"]
        assert "Solver-aligned adversarial training" in (tmp_path / f"{name}.md").read_text()
        assert (tmp_path / f"{name}-strict.html").stat().st_size > 10_000
    assert {path.stem for path in (tmp_path / "aligned-reproduction").glob("*.json")} == {"fig4"}
