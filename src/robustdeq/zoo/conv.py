"""The single-scale convolutional DEQ: f(z; u) = norm(relu(z + norm(u + W_2 norm(relu(W_1 z))))).

The residual cell of Kolter, Duvenaud and Johnson, "Deep implicit layers" (tutorial at NeurIPS 2020), chapter 4, between
a linear injection and a linear head. Nothing in it pulls towards a fixed point, so that a solve of few steps ends some
way off it: here the gradient through the solver and the gradient of the fixed point differ.

The state is one (B, H, W, C) tensor, channels last as the convolutions like it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from robustdeq.base.errors import InputError, check_counts, look_up
from robustdeq.zoo.equilibrium import EquilibriumConfig, EquilibriumModel


@dataclass(frozen=True, kw_only=True)
class ConvConfig(EquilibriumConfig):
    """Everything that tells one single-scale DEQ from another, apart from its images and classes.

    Args:
        channels: Feature maps of the state.
        hidden: Feature maps between the two convolutions of the cell.
        groups: Groups of each GroupNorm.
        patch: Side, in pixels, of the squares that one position of the state stands for.
        pooled: Side of the grid that the state is averaged over before the classifier reads it.

    Raises:
        InputError: If the groups do not divide the feature maps, or the patches and the grid not the images, or these
            have not two sides.
    """

    kind: ClassVar[str] = "ConvDEQ"

    channels: int
    hidden: int
    groups: int = 8
    patch: int = 1
    pooled: int = 4

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.channels, self.hidden, self.groups) < 1 or self.channels % self.groups or self.hidden % self.groups:
            raise InputError(
                f"{self.groups} groups do not divide {self.channels} channels and {self.hidden} hidden ones; "
                "give multiples of the groups."
            )
        cell = self.patch * self.pooled
        if min(self.patch, self.pooled) < 1 or any(side < 1 or side % cell for side in self.sides):
            height, width = self.sides
            raise InputError(
                f"images of {height}×{width} pixels do not fall into {self.pooled} × {self.pooled} parts of "
                f"{self.patch}-pixel patches; crop or pad them to multiples of {cell}."
            )

    @property
    @override
    def summary(self) -> str:
        return f"single-scale convolutional DEQ, {self.channels} feature maps, {self.hidden} hidden ones"

    @override
    def network(self, num_classes: int, in_channels: int) -> ConvDEQ:
        return ConvDEQ(self, num_classes, in_channels)


class LinearInjection(nn.Module):
    """The injection u of an image: patches of pixels as channels, a 3×3 convolution, BatchNorm; no nonlinearity.

    Args:
        in_channels: Channels of the image.
        channels: Feature maps of the state.
        patch: Side of the patches in pixels.
    """

    def __init__(self, in_channels: int, channels: int, patch: int) -> None:
        super().__init__()
        self.patches = nn.PixelUnshuffle(patch)
        self.conv = nn.Conv2d(in_channels * patch**2, channels, kernel_size=3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(
        self, x: Float[Tensor, "batch in_channels height width"]
    ) -> Float[Tensor, "batch rows columns channels"]:
        """Raw pixels in [0, 1] to the injection."""
        return self.norm(self.conv(self.patches(x))).permute(0, 2, 3, 1).contiguous()


class ResidualCell(nn.Module):
    """The cell f(z; u): two 3×3 convolutions with GroupNorm around a shortcut; u enters after the second.

    Its convolutions start at N(0, 0.01²), as in the tutorial.

    Args:
        channels: Feature maps of the state.
        hidden: Feature maps between the convolutions.
        groups: Groups of each GroupNorm.
    """

    def __init__(self, channels: int, hidden: int, groups: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, hidden, kernel_size=3, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(groups, hidden)
        self.conv2 = nn.Conv2d(hidden, channels, kernel_size=3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(groups, channels)
        self.norm3 = nn.GroupNorm(groups, channels)
        for conv in (self.conv1, self.conv2):
            nn.init.normal_(conv.weight, std=0.01)

    def forward(
        self, z: Float[Tensor, "batch rows columns channels"], u: Float[Tensor, "batch rows columns channels"]
    ) -> Float[Tensor, "batch rows columns channels"]:
        """f(z; u)."""
        state, injected = z.permute(0, 3, 1, 2), u.permute(0, 3, 1, 2)
        update = self.norm2(injected + self.conv2(self.norm1(F.relu(self.conv1(state)))))
        return self.norm3(F.relu(state + update)).permute(0, 2, 3, 1).contiguous()


class LinearHead(nn.Module):
    """The classifier of a state: BatchNorm, the mean over each part of a grid, one linear layer.

    Args:
        channels: Feature maps of the state.
        pooled: Side of the grid.
        num_classes: Number of logits.
    """

    def __init__(self, channels: int, pooled: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.pool = nn.AdaptiveAvgPool2d(pooled)
        self.classifier = nn.Linear(channels * pooled**2, num_classes)

    def forward(self, z: Float[Tensor, "batch rows columns channels"]) -> Float[Tensor, "batch classes"]:
        """Logits of a state."""
        return self.classifier(self.pool(self.norm(z.permute(0, 3, 1, 2))).flatten(1))


class ConvDEQ(EquilibriumModel[ConvConfig]):
    """A single-scale DEQ that remembers its configuration, so that it can be saved and made again.

    Args:
        config: The configuration.
        num_classes: Number of logits.
        in_channels: Channels of the images.
    """

    def __init__(self, config: ConvConfig, num_classes: int, in_channels: int) -> None:
        check_counts(num_classes=num_classes, in_channels=in_channels)
        super().__init__(
            LinearInjection(in_channels, config.channels, config.patch),
            ResidualCell(config.channels, config.hidden, config.groups),
            LinearHead(config.channels, config.pooled, num_classes),
            **config.iteration,
        )
        self.config, self.num_classes, self.in_channels = config, num_classes, in_channels


CONV_SIZES: Mapping[str, ConvConfig] = {
    "digits": ConvConfig(channels=16, hidden=48, pooled=8, image_size=8),
    "small": ConvConfig(channels=64, hidden=224, patch=4),
}


def conv(
    size: str | ConvConfig, num_classes: int = 10, in_channels: int = 3, image_size: int | tuple[int, int] | None = None
) -> ConvDEQ:
    """A single-scale DEQ with fresh weights.

    Args:
        size: "digits" (24 k parameters) or "small" (0.3 M), or a configuration of your own.
        num_classes: Number of logits.
        in_channels: Channels of the images.
        image_size: Side, or height and width, of the images in pixels; that of the size by default.

    Returns:
        The model: raw pixels in [0, 1], (B, in_channels, H, W), to logits (B, num_classes).

    Raises:
        InputError: If there is no such size, there are no classes or channels, or the images do not fall into its
            patches.
    """
    config = look_up("conv model of size", size, CONV_SIZES) if isinstance(size, str) else size
    return config.sized(image_size).network(num_classes, in_channels)
