"""A model of features: within bounds of their own, without any, and through the command line."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

import robustdeq as rd
from robustdeq import cli
from robustdeq.attacks import APGD, PGD, TargetedFAB
from robustdeq.base.errors import InputError
from robustdeq.base.imports import imported
from robustdeq.base.threat import ThreatModel
from robustdeq.evaluation import Estimators, GridResult

EXAMPLE = Path(__file__).parents[1] / "examples/tabular.py"
FREE = (-math.inf, math.inf)
FEW = Estimators(steps=(1,), dampings=(1.0,), states=1)
WEAK = {"steps": 1, "restarts": 1, "apgd_steps": 2, "targets": 1, "queries": 2, "probe_images": 2}


def test_the_example_measures_what_can_be_measured() -> None:
    result = imported(f"{EXAMPLE}:main")(training_steps=2, samples=6, estimators=FEW, **WEAK)
    assert result.per_sample.shape[-1] == 6
    assert "square needs images (B, C, H, W)" in result.missing["no gradient, Square"]
    assert "through the solver, targeted APGD" not in result.missing
    assert tuple(result.settings["attack"]["bounds"]) == (-10.0, 10.0)


def test_features_go_through_the_command_line(tmp_path: Path) -> None:
    command = [
        "evaluate",
        f"{EXAMPLE}:build",
        "--data",
        f"{EXAMPLE}:data",
        "-n",
        "4",
        "--early",
        "3",
        "-o",
        str(tmp_path),
    ]
    command += ["--attack.eps", "0.25", "--attack.steps", "1", "--attack.bounds", "[-10, 10]"]
    command += ["--estimators.steps", "[1]", "--estimators.states", "1"]
    cli.main(command)
    assert tuple(GridResult.read(tmp_path / "results.json").settings["attack"]["bounds"]) == (-10.0, 10.0)


@pytest.mark.slow
def test_somebodys_deq_of_features_is_trained(tmp_path: Path) -> None:
    command = ["train", f"{EXAMPLE}:build", "--data", f"{EXAMPLE}:data", "--output", str(tmp_path)]
    command += ["--objective", "Standard", "--augmentation", "null", "--schedule.max_steps", "3"]
    command += ["--validation.attack.bounds", "[-10, 10]", "--schedule.batch_size", "64", "--optimization.warmup", "0"]
    cli.main(command)
    assert rd.load(tmp_path / "model.safetensors", trust=True)(torch.zeros(1, 30)).shape == (1, 2)


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
@pytest.mark.parametrize("kind", [PGD, APGD, TargetedFAB])
def test_features_without_bounds_are_attacked_as_within_bounds_that_are_never_reached(
    kind: type[PGD | APGD | TargetedFAB], norm: str
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 4)).double().eval()
    x = 3 * torch.randn(24, 6, dtype=torch.float64)
    y = model(x).argmax(dim=1)
    eps = 3.0
    attack = kind(eps=eps, norm=norm, bounds=FREE)
    adversaries = attack(model, x, y)
    attack.threat.check_adversaries(adversaries, x)
    low, high = attack.threat.box(x)
    assert low == float(x.min()) - eps
    assert high == float(x.max()) + eps
    assert torch.equal(adversaries, kind(eps=eps, norm=norm, bounds=(low, high))(model, x, y))
    assert (model(adversaries).argmax(dim=1) != y).any()


def test_what_has_no_bounds_still_has_a_radius() -> None:
    threat, x, y = ThreatModel(0.5, "Linf", FREE), 100 * torch.randn(4, 3), torch.zeros(4, dtype=torch.int64)
    threat.check(x, y)
    assert threat.span == 50.0
    assert torch.equal(threat.clip(x), x)
    threat.check_adversaries(x + 0.5, x)
    with pytest.raises(InputError, match=r"moved an image by 0\.51\d* in Linf, further than eps = 0\.5"):
        threat.check_adversaries(x + 0.51, x)
