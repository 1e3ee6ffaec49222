"""The explicit networks that equilibrium models are compared with, in their CIFAR form.

The residual network of He, Zhang, Ren and Sun ("Deep residual learning for image recognition", CVPR 2016) with 18
layers and a 3×3 stem, and the wide residual network WRN-34-10 of Zagoruyko and Komodakis ("Wide residual networks",
BMVC 2016). Parameters bear the names that the checkpoints of the adversarial training literature give them, so that
these load as they are.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from robustdeq.base.errors import InputError, check_counts, require
from robustdeq.base.shapes import Logits
from robustdeq.zoo.architecture import Architecture, ZooModel


@dataclass(frozen=True)
class ResNetConfig(Architecture):
    """Everything that tells one residual network from another, apart from its images and classes.

    Args:
        blocks: Residual blocks per stage; each stage after the first halves the resolution and doubles the width.
        width: Feature maps of the first stage.

    Raises:
        InputError: If a stage has no block, or no feature maps.
    """

    kind: ClassVar[str] = "ResNet"

    blocks: tuple[int, ...] = (2, 2, 2, 2)
    width: int = 64

    def __post_init__(self) -> None:
        require(self.blocks and min(self.blocks) >= 1, f"blocks is {self.blocks}; give every stage at least 1 block.")
        require(self.width >= 1, f"width is {self.width}; give at least 1 feature map.")

    @property
    @override
    def summary(self) -> str:
        layers, blocks = 2 * sum(self.blocks) + 2, ", ".join(map(str, self.blocks))
        return f"ResNet-{layers}, stages of {blocks} blocks, {self.width} feature maps"

    @override
    def network(self, num_classes: int, in_channels: int) -> ResNet:
        return ResNet(self, num_classes, in_channels)


@dataclass(frozen=True)
class WideResNetConfig(Architecture):
    """Everything that tells one wide residual network from another, apart from its images and classes.

    Args:
        depth: Convolutions along the longest path, 6 n + 4 for n blocks in each of the three stages.
        widening: Width of the three stages, in multiples of 16, 32 and 64 feature maps.

    Raises:
        InputError: If no whole number of blocks has that depth, or the width is not positive.
    """

    kind: ClassVar[str] = "WideResNet"

    depth: int = 34
    widening: int = 10

    def __post_init__(self) -> None:
        if self.depth < 10 or (self.depth - 4) % 6:
            raise InputError(f"depth is {self.depth}; give 6 n + 4 for n ≥ 1 blocks per stage, such as 28 or 34.")
        require(self.widening >= 1, f"widening is {self.widening}; give 1 or more.")

    @property
    @override
    def summary(self) -> str:
        return f"WRN-{self.depth}-{self.widening}, a wide residual network"

    @override
    def network(self, num_classes: int, in_channels: int) -> WideResNet:
        return WideResNet(self, num_classes, in_channels)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with BatchNorm around a shortcut, ReLU after the sum.

    Args:
        in_channels: Feature maps of the input.
        channels: Feature maps of the output.
        stride: Of the first convolution.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Float[Tensor, "batch c_in h w"]) -> Float[Tensor, "batch c_out h_out w_out"]:
        """Transform the feature maps."""
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(residual + self.shortcut(x))


class ResNet(ZooModel[ResNetConfig]):
    """A residual network for small images, which remembers its configuration.

    Args:
        config: The configuration.
        num_classes: Number of logits.
        in_channels: Channels of the images.
    """

    def __init__(self, config: ResNetConfig, num_classes: int, in_channels: int) -> None:
        check_counts(num_classes=num_classes, in_channels=in_channels)
        super().__init__()
        self.config, self.num_classes, self.in_channels = config, num_classes, in_channels
        width = config.width
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        channels = width
        for stage, blocks in enumerate(config.blocks):
            inner, channels = channels, width << stage
            self.add_module(f"layer{stage + 1}", _stage(BasicBlock, inner, channels, blocks, 1 if stage == 0 else 2))
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, x: Float[Tensor, "batch in_channels height width"]) -> Logits:
        """Raw pixels in [0, 1] to logits."""
        features = F.relu(self.bn1(self.conv1(x)))
        for stage in range(1, len(self.config.blocks) + 1):
            features = self.get_submodule(f"layer{stage}")(features)
        return self.linear(features.mean(dim=(2, 3)))


class WideBlock(nn.Module):
    """BatchNorm and ReLU before each of two 3×3 convolutions; the shortcut starts before them where widths agree.

    Its arguments are those of `BasicBlock`.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.convShortcut = (
            None if in_channels == channels else nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False)
        )

    def forward(self, x: Float[Tensor, "batch c_in h w"]) -> Float[Tensor, "batch c_out h_out w_out"]:
        """Transform the feature maps."""
        activated = F.relu(self.bn1(x))
        residual = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        return residual + (x if self.convShortcut is None else self.convShortcut(activated))


class WideResNet(ZooModel[WideResNetConfig]):
    """A wide residual network for small images; its arguments are those of `ResNet`."""

    def __init__(self, config: WideResNetConfig, num_classes: int, in_channels: int) -> None:
        check_counts(num_classes=num_classes, in_channels=in_channels)
        super().__init__()
        self.config, self.num_classes, self.in_channels = config, num_classes, in_channels
        blocks = (config.depth - 4) // 6
        widths = [multiple * config.widening for multiple in (16, 32, 64)]
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.block1, self.block2, self.block3 = (
            nn.Sequential(OrderedDict(layer=_stage(WideBlock, inner, outer, blocks, stride)))
            for inner, outer, stride in zip([16, *widths], widths, (1, 2, 2), strict=False)
        )
        self.bn1 = nn.BatchNorm2d(widths[2])
        self.fc = nn.Linear(widths[2], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=math.sqrt(2 / (module.out_channels * math.prod(module.kernel_size))))
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Float[Tensor, "batch in_channels height width"]) -> Logits:
        """Raw pixels in [0, 1] to logits."""
        features = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(F.relu(self.bn1(features)).mean(dim=(2, 3)))


def _stage(block: type[nn.Module], in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    """The blocks of one resolution; the first of them changes the resolution and the width."""
    others = (block(channels, channels, stride=1) for _ in range(blocks - 1))
    return nn.Sequential(block(in_channels, channels, stride), *others)


def resnet18(num_classes: int = 10, in_channels: int = 3) -> ResNet:
    """ResNet-18 for small images with fresh weights: 11,173,962 parameters for 10 classes and 3 channels.

    Args:
        num_classes: Number of logits.
        in_channels: Channels of the images.

    Returns:
        The model: raw pixels in [0, 1], (B, in_channels, H, W), to logits (B, num_classes).
    """
    return ResNetConfig().network(num_classes, in_channels)


def wide_resnet34_10(num_classes: int = 10, in_channels: int = 3) -> WideResNet:
    """WRN-34-10 with fresh weights: 46,160,474 parameters for 10 classes and 3 channels; used as `resnet18` is."""
    return WideResNetConfig().network(num_classes, in_channels)
