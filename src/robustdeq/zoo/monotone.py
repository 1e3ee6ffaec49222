"""Monotone DEQs of images (Winston and Kolter, "Monotone operator equilibrium networks", NeurIPS 2020).

A position of the state stands for a square of pixels: small squares make a convolutional network, one as large as the
image makes a fully connected one. Injection and classifier are affine, so that certificates can see through them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from robustdeq.base.errors import InputError, check_counts, hint, look_up, require
from robustdeq.deq.monotone import Contracting, ForwardBackward, Monotone, MonotoneDEQ, PeacemanRachford
from robustdeq.deq.monotone.operators import Operator
from robustdeq.deq.monotone.splittings import Splitting
from robustdeq.solvers import Picard
from robustdeq.zoo.equilibrium import EquilibriumConfig, EquilibriumModel

OPERATORS: Mapping[str, type[Operator]] = {"monotone": Monotone, "contracting": Contracting}
SPLITTINGS: Mapping[str, type[Splitting]] = {
    "forward-backward": ForwardBackward,
    "peaceman-rachford": PeacemanRachford,
}


@dataclass(frozen=True, kw_only=True)
class MonotoneConfig(EquilibriumConfig):
    """Everything that tells one monotone DEQ from another, apart from its images and classes.

    Args:
        channels: Feature maps of the state.
        m: The modulus of strong monotonicity: the larger, the less z* moves with the image.
        operator: `"monotone"`, in the Euclidean norm, or `"contracting"`, in the largest entry.
        splitting: `"forward-backward"` or `"peaceman-rachford"`.
        side: Side of the convolution kernels, odd; 1 where the state has one position.
        patch: Side, in pixels, of the squares that one position of the state stands for.
        pooled: Side of the squares of positions that are averaged before the classifier.

    Raises:
        InputError: If there is no such operator or splitting, a size is out of its range, or the patches do not fill
            the image.
    """

    kind: ClassVar[str] = "MonotoneNetwork"

    channels: int
    m: float = 1.0
    operator: str = "monotone"
    splitting: str = "peaceman-rachford"
    side: int = 3
    patch: int = 1
    pooled: int = 1
    max_steps: int = 60
    tol: float = 1e-5
    tail_steps: int = 1
    tail_damping: float = 1.0

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        look_up("operator", self.operator, OPERATORS)
        look_up("splitting", self.splitting, SPLITTINGS)
        require(
            min(self.patch, self.pooled, self.channels) > 0, "patch, pooled and channels are counts; give 1 or more."
        )
        if any(side < 1 or side % self.patch for side in self.sides):
            height, width = self.sides
            raise InputError(f"patches of {self.patch} pixels do not fill images of {height}×{width}; give a divisor.")
        if min(self.grid) < self.pooled:
            raise InputError(f"squares of {self.pooled} do not fit into a grid of {self.grid}; give a smaller pooled.")
        with torch.device("meta"):
            self.linear()

    @property
    def border(self) -> int:
        """The width of the border, in positions, on which the state is zero."""
        return self.side // 2

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the state in positions, its border included."""
        height, width = (side // self.patch + 2 * self.border for side in self.sides)
        return height, width

    @property
    @override
    def iteration(self) -> dict[str, Any]:
        """Plain iteration, which brings every state nearer to z*: no image makes it diverge."""
        return super().iteration | {"solver": Picard(max_steps=self.max_steps, tol=self.tol)}

    def linear(self) -> Operator:
        """W with fresh weights."""
        return OPERATORS[self.operator](self.channels, self.side, self.grid, self.m)

    @property
    @override
    def summary(self) -> str:
        layer = "fully connected" if self.grid == (1, 1) else "convolutional"
        return f"{layer} {self.operator} DEQ, {self.channels} feature maps, m = {self.m:g}"

    @override
    def network(self, num_classes: int, in_channels: int) -> MonotoneNetwork:
        return MonotoneNetwork(self, num_classes, in_channels)


class MonotoneNetwork(MonotoneDEQ, EquilibriumModel[MonotoneConfig]):
    """A monotone DEQ that remembers its configuration, so that it can be saved and made again.

    Args:
        config: The configuration.
        num_classes: Number of logits.
        in_channels: Channels of the images.
    """

    def __init__(self, config: MonotoneConfig, num_classes: int, in_channels: int) -> None:
        check_counts(num_classes=num_classes, in_channels=in_channels)
        height, width = (side // config.pooled for side in config.grid)
        injected = nn.Conv2d(
            in_channels * config.patch**2, config.channels, config.side, padding=config.side // 2 + config.border
        )
        super().__init__(
            nn.Sequential(nn.PixelUnshuffle(config.patch), injected),
            SPLITTINGS[config.splitting](config.linear(), config.border),
            nn.Sequential(
                nn.AvgPool2d(config.pooled), nn.Flatten(), nn.Linear(config.channels * height * width, num_classes)
            ),
            **config.iteration,
        )
        self.config, self.num_classes, self.in_channels = config, num_classes, in_channels

    @property
    def injected(self) -> Float[Tensor, "channels inputs _ _"]:
        """The kernel of the injection, on patches that lie on the grid of the state."""
        weight = self.injection[1].weight
        assert isinstance(weight, Tensor)
        return weight

    injection: nn.Sequential


MONOTONE_SIZES: Mapping[str, MonotoneConfig] = {
    "digits": MonotoneConfig(channels=16, pooled=2, image_size=8),
    "digits-dense": MonotoneConfig(channels=87, side=1, patch=8, image_size=8),
    "small": MonotoneConfig(channels=48, patch=4, pooled=2, max_steps=100, tol=1e-6),
}


def monotone(
    size: str | MonotoneConfig,
    num_classes: int = 10,
    in_channels: int = 3,
    image_size: int | tuple[int, int] | None = None,
    **settings: Any,
) -> MonotoneNetwork:
    """A monotone DEQ with fresh weights.

    Args:
        size: "digits" or "small" (convolutional), "digits-dense" (fully connected), or a configuration of your own.
        num_classes: Number of logits.
        in_channels: Channels of the images.
        image_size: Side, or height and width, of the images in pixels; that of the size by default.
        settings: of the configuration that differ, such as `m` or `operator`.

    Returns:
        The model: raw pixels in [0, 1], (B, in_channels, H, W), to logits (B, num_classes).

    Raises:
        InputError: If there is no such size or setting, there are no classes or channels, or a setting is out of its
            range.
    """
    config = look_up("monotone model of size", size, MONOTONE_SIZES) if isinstance(size, str) else size
    known = [field.name for field in fields(MonotoneConfig)]
    for name in settings:
        require(name in known, f"a monotone model has no {name!r}; {hint(name, known)}")
    return replace(config, **settings).sized(image_size).network(num_classes, in_channels)
