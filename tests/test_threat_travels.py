"""The threat model that weights were trained in is the one they are evaluated in, unless another is asked for."""

import json
from pathlib import Path

import pytest
import torch

import robustdeq as rd
from robustdeq import cli
from robustdeq.attacks import PGD
from robustdeq.base.errors import InputError
from robustdeq.base.threat import ThreatModel
from robustdeq.cli.attack import Climb
from robustdeq.training import Recipe
from robustdeq.training.objectives import AdversarialTraining, Standard
from robustdeq.zoo.card import fingerprint
from robustdeq.zoo.registry import read_card

WIDE = ThreatModel(0.25, "L2", (0.0, 1.0))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "own.safetensors"
    torch.manual_seed(0)
    rd.save(rd.models.mdeq("nano", in_channels=1), path, early=2, threat=WIDE)
    return path


def test_weights_name_the_threat_model_and_are_the_same_model(weights: Path, tmp_path: Path) -> None:
    rd.save(rd.load(weights), tmp_path / "plain.safetensors", early=2)
    assert read_card(weights).trained_within == WIDE
    assert read_card(tmp_path / "plain.safetensors").trained_within is None
    assert fingerprint(rd.load(weights)) == fingerprint(rd.load(tmp_path / "plain.safetensors"))
    assert "| threat model | L2, ε = 0.25, pixels in [0.0, 1.0] |" in weights.with_suffix(".md").read_text("utf-8")


@pytest.mark.parametrize(
    ("climb", "trained", "attack"),
    [
        (Climb(), None, PGD()),
        (Climb(), WIDE, PGD(0.25, 0.0625, norm="L2")),
        (Climb(eps=0), WIDE, PGD(0.0, 1.0, norm="L2")),
        (Climb(eps="8/255"), WIDE, PGD(8 / 255, 2 / 255, norm="L2")),
        (Climb(eps="0.5", step_size="1/4", norm="Linf", steps=3), WIDE, PGD(0.5, 0.25, 3)),
        (Climb(bounds=(-1.0, 2.0), seed=4), WIDE, PGD(0.25, 0.0625, norm="L2", seed=4, bounds=(-1.0, 2.0))),
    ],
)
def test_what_is_not_said_is_that_of_the_weights(climb: Climb, trained: ThreatModel | None, attack: PGD) -> None:
    assert climb.attack(trained) == attack


@pytest.mark.parametrize("eps", ["wide", "8/0", "8/", "1/2/3", ""])
def test_what_is_no_number_is_refused(eps: str) -> None:
    with pytest.raises(InputError, match=f"eps is '{eps}'; give a number, or a fraction such as 8/255"):
        Climb(eps=eps).attack(None)


@pytest.mark.parametrize(
    ("options", "expected"),
    [((), (0.25, "L2")), (("--attack.eps", "8/255", "--attack.norm", "Linf"), (8 / 255, "Linf"))],
)
def test_the_command_takes_it_from_the_weights(
    options: tuple[str, ...],
    expected: tuple[float, str],
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    effort = ["--attack.steps", "1", "--estimators.steps", "[1]", "--estimators.dampings", "[1.0]", "-n", "3"]
    cli.main(["evaluate", str(weights), "--data", "digits", *effort, *options, "--output", str(tmp_path / "out")])
    attack = json.loads((tmp_path / "out/results.json").read_text())["settings"]["attack"]
    assert (attack["eps"], attack["norm"]) == expected
    said = "the weights were trained with ε = 0.25 (L2)"
    assert (said in " ".join(capsys.readouterr().out.split())) == bool(options)


def test_a_recipe_trains_in_the_threat_model_of_its_attack_or_of_its_validation() -> None:
    assert Recipe(AdversarialTraining(PGD(0.1, 0.05))).threat == ThreatModel(0.1)
    assert Recipe(Standard()).threat == Recipe().validation.attack.threat


@pytest.mark.parametrize(("norm", "largest"), [("Linf", 1.0), ("L2", 8.0), ("L1", 64.0)])
def test_a_radius_beyond_the_range_of_pixels_is_refused(norm: str, largest: float) -> None:
    x, y = rd.data.load("digits").require("test").head(2).tensors()
    ThreatModel(largest, norm).check(x, y)
    with pytest.raises(InputError, match=f"differ by {largest:g} in {norm} at most; give it in the units of pixels"):
        ThreatModel(1.01 * largest, norm).check(x, y)
