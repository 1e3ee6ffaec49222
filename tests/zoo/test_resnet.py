"""Explicit networks: the sizes of the literature, its names of parameters, and what a checkpoint in them computes."""

from collections.abc import Callable
from pathlib import Path

import pyautoattack
import pytest
import torch
from pyautoattack.examples.resnet import ResNet18
from torch import nn

import robustdeq as rd
from robustdeq.base.errors import InputError
from robustdeq.zoo.resnet import ResNet, ResNetConfig, WideResNet, WideResNetConfig, resnet18, wide_resnet34_10

CHECKPOINT = Path(pyautoattack.__file__).parent / "examples" / "model_test.pt"


@pytest.mark.parametrize(
    ("build", "parameters"),
    [
        (resnet18, 11_173_962),
        (lambda: resnet18(100, in_channels=1), 11_173_962 + 90 * 513 - 2 * 9 * 64),
        (wide_resnet34_10, 46_160_474),
        (lambda: wide_resnet34_10(100), 46_160_474 + 90 * 641),
    ],
)
def test_number_of_parameters(build: Callable[[], nn.Module], parameters: int) -> None:
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in build().parameters()) == parameters


def test_checkpoint_of_the_autoattack_authors_loads_and_gives_their_logits() -> None:
    weights = torch.load(CHECKPOINT, map_location="cpu", weights_only=True)
    ours, theirs = rd.models.resnet18().eval(), ResNet18().eval()
    ours.load_state_dict(weights)
    theirs.load_state_dict(weights)
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


class PreActivation(nn.Module):
    """A wide residual network of 10 layers written out from the paper's Table 1, on the parameters of ours."""

    def __init__(self, net: WideResNet) -> None:
        super().__init__()
        self.p = net.state_dict()

    def norm_relu(self, x: torch.Tensor, name: str) -> torch.Tensor:
        mean, var, weight, bias = (
            self.p[f"{name}.{part}"].view(-1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (weight * (x - mean) / (var + 1e-5).sqrt() + bias).clamp_min(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        convolve = nn.functional.conv2d
        x = convolve(x, self.p["conv1.weight"], padding=1)
        for stage, stride in ((1, 1), (2, 2), (3, 2)):
            name = f"block{stage}.layer.0"
            x = self.norm_relu(x, f"{name}.bn1")
            y = convolve(x, self.p[f"{name}.conv1.weight"], stride=stride, padding=1)
            y = convolve(self.norm_relu(y, f"{name}.bn2"), self.p[f"{name}.conv2.weight"], padding=1)
            x = y + convolve(x, self.p[f"{name}.convShortcut.weight"], stride=stride)
        return self.norm_relu(x, "bn1").flatten(2).mean(dim=2) @ self.p["fc.weight"].T + self.p["fc.bias"]


def generic(net: WideResNet) -> WideResNet:
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return net.double().eval()


def test_wide_network_is_that_of_the_paper() -> None:
    net = generic(WideResNet(WideResNetConfig(10, 2), 4, 2))
    x = torch.rand(3, 2, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(net(x), PreActivation(net)(x), rtol=1e-10, atol=1e-10)


def test_second_block_of_a_wide_stage_keeps_what_it_was_given() -> None:
    net = generic(WideResNet(WideResNetConfig(16, 1), 4, 2))
    block = net.block1.layer[1]
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 16, 4, 4, dtype=torch.float64)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("side", [7, 28])
def test_images_of_any_size_are_classified(side: int) -> None:
    net = ResNet(ResNetConfig((1, 1), width=4), 3, 1).eval()
    assert net(torch.rand(2, 1, side, side)).shape == (2, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ResNetConfig(blocks=()), r"blocks is \(\); give every stage"),
        (lambda: ResNetConfig(blocks=(2, 0)), r"blocks is \(2, 0\)"),
        (lambda: ResNetConfig(width=0), "width is 0"),
        (lambda: WideResNetConfig(depth=33), r"depth is 33; give 6 n \+ 4"),
        (lambda: WideResNetConfig(depth=4), "depth is 4"),
        (lambda: WideResNetConfig(widening=0), "widening is 0"),
    ],
)
def test_impossible_configuration_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
