"""`robustdeq verify` on what `robustdeq evaluate` kept: it agrees, or ends with status 2 and names the file."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import robustdeq as rd
from robustdeq import cli
from robustdeq.zoo.resnet import ResNet, ResNetConfig

OWN = f"{Path(__file__).parents[1] / 'examples' / 'own_defenses.py'}:MedianOfStates"
QUICK = ["--early", "2", "--estimators.steps", "[1]", "--estimators.dampings", "[1.0]", "--estimators.states", "1"]


def kept(network: str, *options: str) -> list[str]:
    """Evaluate a network on a few digits; the arguments that verify it."""
    attack = ["--attack.eps", "0.1", "--attack.steps", "1", "--save_adversaries", "--output", "run"]
    cli.main(["evaluate", network, "--data", "digits", "-n", "3", *attack, *options])
    return ["verify", "run", network, "--data", "digits"]


@pytest.fixture(autouse=True)
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    config = replace(rd.models.PRESETS["nano"], max_steps=3)
    rd.save(rd.models.mdeq(config, in_channels=1).eval(), "deq.safetensors")


def refused(capsys: pytest.CaptureFixture[str], sentence: str, *arguments: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main([*arguments])
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    assert sentence in " ".join((printed.out + printed.err).split())


def test_what_was_kept_agrees(capsys: pytest.CaptureFixture[str]) -> None:
    command = kept("deq.safetensors", *QUICK, "--defenses.own", OWN)
    capsys.readouterr()
    cli.main([*command, "--defenses.own", OWN, "--double"])
    said = " ".join(capsys.readouterr().out.split())
    assert "agree with the results" in said and "other in float64" in said and " own " in said
    assert "in Linf, and ε = 0.1" in said
    refused(capsys, "other --defenses", *command)


def test_what_does_not_agree_ends_in_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    rd.save(ResNet(ResNetConfig((1, 1), width=2), 10, 1).eval(), "resnet.safetensors")
    command = kept("resnet.safetensors")
    cli.main(command)
    refused(capsys, "is about another model", "verify", "run", "deq.safetensors", "--data", "digits")
    file = min(Path("run/adversaries").iterdir())
    tensors = load_file(file)
    save_file({**tensors, "adversaries": tensors["adversaries"].flip(2)}, file)
    refused(capsys, f"{file} moves 3 images further than ε = 0.1", *command)
    refused(capsys, "does not hold what it says", *command)
