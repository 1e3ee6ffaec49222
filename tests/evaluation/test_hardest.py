"""One adversary for every image: judged again, they leave what the evaluation says is left."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from typing_extensions import override

import robustdeq as rd
from robustdeq.attacks import PGD
from robustdeq.attacks.losses import correct
from robustdeq.base.errors import InputError
from robustdeq.base.progress import Report
from robustdeq.defenses import AsIs, EarlyState, FinalState
from robustdeq.evaluation import Chosen, Strict, WorstCase, measure
from robustdeq.evaluation.hardest import hardest, save_hardest
from robustdeq.evaluation.job import ADVERSARIES

pytestmark = pytest.mark.usefixtures("float64")
FEW = rd.evaluation.Estimators(steps=(1,), dampings=(1.0,), states=1)
ATTACK = rd.attacks.PGD(0.02, 0.008, steps=3)
EFFORT = {"steps": 3, "restarts": 2, "apgd_steps": 5, "targets": 2, "queries": 20, "probe_images": 8}


@pytest.fixture(scope="module")
def digits() -> tuple[rd.models.DEQ, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    config = replace(rd.models.CONV_SIZES["digits"], channels=4, hidden=8, groups=2)
    model = rd.models.conv(config, in_channels=1).double().eval()
    x, _ = rd.data.load("digits").require("test").head(12).tensors()
    x = x.double()
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    y[::4] = (y[::4] + 1) % 10
    return model, x, y


@pytest.mark.parametrize(
    "protocol", [Strict(ATTACK, FEW, **EFFORT), WorstCase(ATTACK, FEW, **EFFORT)], ids=["all", "in turn"]
)
def test_what_they_leave_is_the_worst_case(
    protocol: Strict, digits: tuple[rd.models.DEQ, torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    model, x, y = digits
    defenses = {"final": FinalState(), "early": EarlyState(3)}
    result = measure(model, x, y, protocol, defenses=defenses, batch_size=8, folder=tmp_path, adversaries=True)
    found, labels = hardest(tmp_path)
    assert torch.equal(labels, y)
    ATTACK.threat.check_adversaries(found, x)
    with torch.no_grad():
        stands = correct(model(found), y).numpy()
    np.testing.assert_array_equal(stands, result.standing[0])
    assert 0 < stands.sum() < len(y) * 3 / 4

    save_hardest(tmp_path, tmp_path / "theirs.pt")
    assert torch.equal(torch.load(tmp_path / "theirs.pt", weights_only=True), found)
    save_hardest(tmp_path, tmp_path / "ours.safetensors")
    assert torch.equal(load_file(tmp_path / "ours.safetensors")["labels"], y)

    for file in (tmp_path / ADVERSARIES).iterdir():
        file.write_bytes(b"damaged")
    with pytest.raises(InputError, match="holds no adversaries"):
        hardest(tmp_path)


@dataclass(frozen=True)
class Blackened(PGD):
    """Makes every image black."""

    @override
    def search(self, surrogate: nn.Module, judge: nn.Module, x: Tensor, y: Tensor, report: Report) -> Tensor:
        return torch.zeros_like(x)


def test_an_image_that_is_wrong_as_it_is_stays_wrong(tmp_path: Path) -> None:
    bright = nn.Sequential(nn.Flatten(), nn.Linear(1, 2)).double()
    with torch.no_grad():
        bright[1].weight.copy_(torch.tensor([[-1.0], [1.0]]))
        bright[1].bias.copy_(torch.tensor([0.5, -0.5]))
    x, y = torch.tensor([0.9, 0.9, 0.1]).double().view(3, 1, 1, 1), torch.tensor([0, 1, 0])
    attack = Blackened(eps=1.0)
    chosen = Chosen(attack, {"black": (attack, None)})
    result = measure(bright, x, y, chosen, defenses={"network": AsIs()}, folder=tmp_path, adversaries=True)
    assert result.standing.tolist() == [[False, False, True]]
    found, _ = hardest(tmp_path)
    assert correct(bright(found), y).tolist() == [False, False, True]


def test_adversaries_that_were_not_kept_are_asked_for(
    digits: tuple[rd.models.DEQ, torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    model, x, y = digits
    measure(model, x[:4], y[:4], Chosen(ATTACK, {"pgd": (ATTACK, None)}), early=3, folder=tmp_path)
    with pytest.raises(InputError, match="evaluate with --save_adversaries"):
        hardest(tmp_path)
    with pytest.raises(InputError, match="holds no store of an evaluation"):
        hardest(tmp_path / "nowhere")
