"""The multiscale deep equilibrium model (MDEQ) for image classification.

Implements Bai, Koltun, Kolter, "Multiscale Deep Equilibrium Models", NeurIPS 2020, Section 3, in the configuration of
their CIFAR-10 release: the injection u of an image, the cell f(z; u) whose equilibrium holds every scale at once, and
the classification head that reads it.

The state z of all scales is one contiguous (B, D) tensor. Scale i occupies a slice of it in channels-last order, so
that the feature map of a scale is a view of the state and f never changes layout.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from robustdeq.base.errors import InputError, check_counts, look_up
from robustdeq.base.shapes import Flat
from robustdeq.deq.cell import BoundCell
from robustdeq.zoo.equilibrium import EquilibriumConfig, EquilibriumModel

_BOTTLENECK_EXPANSION = 4


@dataclass(frozen=True)
class StateLayout:
    """Where each scale lies in the flat state: scale i has `channels[i]` maps at 1 / 2^i of the image's resolution.

    Args:
        channels: Feature maps per scale, finest first.
        image_size: Height and width of the finest scale, in pixels.

    Raises:
        InputError: If the image cannot be halved once per further scale.
    """

    channels: tuple[int, ...]
    image_size: tuple[int, int]

    def __post_init__(self) -> None:
        multiple = 2 ** (len(self.channels) - 1)
        if any(side < 1 or side % multiple for side in self.image_size):
            height, width = self.image_size
            raise InputError(
                f"Images of {height}×{width} pixels cannot be halved into {len(self.channels)} scales; "
                f"crop or pad them to multiples of {multiple}."
            )

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """(channels, height, width) of each scale."""
        height, width = self.image_size
        return [(channels, height >> i, width >> i) for i, channels in enumerate(self.channels)]

    @property
    def dimension(self) -> int:
        """D, the number of entries of one sample's state."""
        return sum(map(math.prod, self.shapes))

    def split(self, state: Flat) -> list[Float[Tensor, "batch _ _ _"]]:
        """Feature maps of each scale, as views of the state: (B, C_i, H_i, W_i) in channels-last order."""
        slices = state.split([math.prod(shape) for shape in self.shapes], dim=1)
        return [
            part.unflatten(1, (height, width, channels)).permute(0, 3, 1, 2)
            for part, (channels, height, width) in zip(slices, self.shapes, strict=True)
        ]

    def join(self, scales: Sequence[Float[Tensor, "batch _ _ _"]]) -> Flat:
        """The flat state that holds these feature maps; the inverse of `split`."""
        return torch.cat([scale.permute(0, 2, 3, 1).flatten(1) for scale in scales], dim=1)


class WeightNormConv2d(nn.Module):
    """A same-size convolution without bias whose weight g v / ‖v‖ is folded by the caller, once for many calls.

    Args:
        in_channels: Feature maps of the input.
        out_channels: Feature maps of the output; each has a magnitude g and a direction v of its own.
        kernel_size: Odd side of the kernel, in pixels.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.padding = kernel_size // 2
        weight = nn.Conv2d(in_channels, out_channels, kernel_size, bias=False).weight.detach()
        self.weight_v = nn.Parameter(weight)
        self.weight_g = nn.Parameter(_norm_per_output(weight))

    def fold(self) -> Float[Tensor, "c_out c_in k k"]:
        """The weight g v / ‖v‖, with the norm over each output channel, differentiable in g and v."""
        return self.weight_v * (self.weight_g / _norm_per_output(self.weight_v))

    def forward(
        self, x: Float[Tensor, "batch c_in h w"], weight: Float[Tensor, "c_out c_in k k"]
    ) -> Float[Tensor, "batch c_out h w"]:
        """Convolve with a folded weight."""
        return F.conv2d(x, weight, padding=self.padding)


FoldedWeights = Mapping[WeightNormConv2d, Tensor]


class ResidualBlock(nn.Module):
    """The residual transformation of one scale, to which the injection is added before the second normalisation.

    Args:
        channels: Feature maps of the scale.
        expansion: Width of the hidden layer, in multiples of `channels`.
        groups: Groups of each GroupNorm.
    """

    def __init__(self, channels: int, expansion: int, groups: int) -> None:
        super().__init__()
        self.conv1 = WeightNormConv2d(channels, expansion * channels, kernel_size=3)
        self.norm1 = nn.GroupNorm(groups, expansion * channels)
        self.conv2 = WeightNormConv2d(expansion * channels, channels, kernel_size=3)
        self.norm2 = nn.GroupNorm(groups, channels)
        self.norm3 = nn.GroupNorm(groups, channels)

    def forward(
        self,
        z: Float[Tensor, "batch c h w"],
        weights: FoldedWeights,
        injection: Float[Tensor, "batch c h w"] | None = None,
        mask: Float[Tensor, "batch c 1 1"] | None = None,
    ) -> Float[Tensor, "batch c h w"]:
        """Transform one scale; `mask` is the dropout mask of the second convolution's output."""
        hidden = F.relu(self.norm1(self.conv1(z, weights[self.conv1])), inplace=True)
        update = self.conv2(hidden, weights[self.conv2])
        if mask is not None:
            update = update * mask
        if injection is not None:
            update = update + injection
        return self.norm3(F.relu(self.norm2(update) + z, inplace=True))


class Fusion(nn.Module):
    """Multiscale fusion into one scale: the sum of all scales, brought to its resolution and width.

    Args:
        channels: Feature maps per scale, finest first.
        target: Index of the scale that is fused into.
        groups: Groups of each GroupNorm.
    """

    def __init__(self, channels: Sequence[int], target: int, groups: int) -> None:
        super().__init__()
        self.paths = nn.ModuleList(self._path(channels, source, target, groups) for source in range(len(channels)))

    @staticmethod
    def _path(channels: Sequence[int], source: int, target: int, groups: int) -> nn.Module:
        """A 1×1 convolution and upsampling to a finer scale; one stride-2 3×3 convolution per halving to a coarser."""
        if source == target:
            return nn.Identity()
        if source > target:
            return nn.Sequential(
                nn.Conv2d(channels[source], channels[target], kernel_size=1, bias=False),
                nn.GroupNorm(groups, channels[target]),
                nn.Upsample(scale_factor=2 ** (source - target), mode="nearest"),
            )
        widths = [channels[source]] * (target - source) + [channels[target]]
        layers: list[nn.Module] = []
        for inner, outer in pairwise(widths):
            layers += [
                nn.Conv2d(inner, outer, kernel_size=3, stride=2, padding=1, bias=False),
                nn.GroupNorm(groups, outer),
                nn.ReLU(inplace=True),
            ]
        return nn.Sequential(*layers[:-1])

    def forward(self, scales: Sequence[Float[Tensor, "batch _ _ _"]]) -> Float[Tensor, "batch c h w"]:
        """Fuse the feature maps of all scales, each (B, C_i, H_i, W_i)."""
        return reduce(torch.add, [path(scale) for path, scale in zip(self.paths, scales, strict=True)])


class Projection(nn.Module):
    """What follows the fusion at each scale: ReLU, 1×1 convolution, GroupNorm without affine parameters.

    Args:
        channels: Feature maps of the scale.
        groups: Groups of the GroupNorm.
    """

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.conv = WeightNormConv2d(channels, channels, kernel_size=1)
        self.norm = nn.GroupNorm(groups, channels, affine=False)

    def forward(self, x: Float[Tensor, "batch c h w"], weights: FoldedWeights) -> Float[Tensor, "batch c h w"]:
        """Project the fused feature maps of one scale."""
        return self.norm(self.conv(F.relu(x), weights[self.conv]))


class MultiscaleCell(nn.Module):
    """The cell f(z; u): a residual block per scale, fusion across scales, a projection per scale.

    The injection enters the finest scale only. Convolutions of the blocks and projections are weight-normalised, and in
    training mode the blocks use variational dropout: both are fixed by `bind`, once for all evaluations of a solve.

    Args:
        layout: Scales of the state; the other settings are those of `MDEQConfig`.
    """

    def __init__(
        self, layout: StateLayout, expansion: int = 5, groups: int = 8, post_groups: int = 4, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.layout = layout
        self.dropout = dropout
        self.blocks = nn.ModuleList(ResidualBlock(channels, expansion, groups) for channels in layout.channels)
        self.fusions = nn.ModuleList(Fusion(layout.channels, target, groups) for target in range(len(layout.channels)))
        self.projections = nn.ModuleList(Projection(channels, post_groups) for channels in layout.channels)
        _initialise(self)

    def initial_state(self, u: Float[Tensor, "batch c h w"]) -> Flat:
        """z_0 = 0 for each sample of the injection."""
        return u.new_zeros(u.shape[0], self.layout.dimension)

    def bind(self, u: Float[Tensor, "batch c h w"]) -> BoundCell:
        """Fix what one solve holds constant: the injection, the folded weights and the dropout masks.

        Args:
            u: Injection, (B, C_0, H, W).

        Returns:
            z ↦ f(z; u) on flat states (B, D), with the tensors it depends on: u, the folded weights, the plain
            parameters. The folded weights carry the autograd history that leads to g and v.

        Raises:
            InputError: If the injection has another shape than the finest scale.
        """
        finest = self.layout.shapes[0]
        if tuple(u.shape[1:]) != finest:
            raise InputError(
                f"The injection has shape {tuple(u.shape[1:])} where the cell was built for {finest}; "
                "build the model with the image_size of its images."
            )
        normalised = [module for module in self.modules() if isinstance(module, WeightNormConv2d)]
        weights = {conv: conv.fold() for conv in normalised}
        plain = [
            parameter
            for module in self.modules()
            if not isinstance(module, WeightNormConv2d)
            for parameter in module.parameters(recurse=False)
        ]
        injections = [u, *[None] * (len(self.blocks) - 1)]
        masks = [self._dropout_mask(u, channels) for channels in self.layout.channels]

        def function(z: Flat) -> Flat:
            scales = self.layout.split(z)
            transformed = [
                block(scale, weights, injection, mask)
                for block, scale, injection, mask in zip(self.blocks, scales, injections, masks, strict=True)
            ]
            fused = [fusion(transformed) for fusion in self.fusions]
            return self.layout.join(
                [projection(scale, weights) for projection, scale in zip(self.projections, fused, strict=True)]
            )

        return BoundCell(function, (u, *weights.values(), *plain))

    def forward(self, z: Flat, u: Float[Tensor, "batch c h w"]) -> Flat:
        """f(z; u) once; bind first to evaluate f many times for the same u."""
        return self.bind(u)(z)

    def _dropout_mask(self, u: Tensor, channels: int) -> Tensor | None:
        """One draw per sample and channel, scaled to mean 1."""
        if not self.training or self.dropout == 0:
            return None
        keep = 1 - self.dropout
        return u.new_empty(u.shape[0], channels, 1, 1).bernoulli_(keep).div_(keep)


class Injection(nn.Module):
    """The injection u of an image: two 3×3 convolutions, then a 1×1 convolution, each with BatchNorm and ReLU.

    Args:
        in_channels: Channels of the image.
        channels: Feature maps of the finest scale.
        pointwise: Whether the 1×1 stage is there; the published models of two scales go without.
    """

    def __init__(self, in_channels: int, channels: int, pointwise: bool = True) -> None:
        super().__init__()
        self.stem = nn.Sequential(_convolution(in_channels, channels, 3), _convolution(channels, channels, 3))
        self.pointwise = _convolution(channels, channels, 1) if pointwise else nn.Identity()
        _initialise(self)

    def forward(self, x: Float[Tensor, "batch c_in h w"]) -> Float[Tensor, "batch c h w"]:
        """Raw pixels in [0, 1] to the injection, in channels-last format."""
        return self.pointwise(self.stem(x.contiguous(memory_format=torch.channels_last)))


class Bottleneck(nn.Module):
    """A residual bottleneck, 1×1, 3×3, 1×1, with BatchNorm; its shortcut is a 1×1 convolution where widths differ.

    Args:
        in_channels: Feature maps of the input.
        channels: Width of the bottleneck; the output has four times as many.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        out_channels = _BOTTLENECK_EXPANSION * channels
        self.residual = nn.Sequential(
            nn.Conv2d(in_channels, channels, kernel_size=1, bias=False),
            nn.BatchNorm2d(channels, affine=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(channels, affine=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, out_channels, kernel_size=1, bias=False),
            nn.BatchNorm2d(out_channels, affine=False),
        )
        self.shortcut = (
            nn.Identity()
            if in_channels == out_channels
            else nn.Sequential(
                nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False), nn.BatchNorm2d(out_channels)
            )
        )

    def forward(self, x: Float[Tensor, "batch c_in h w"]) -> Float[Tensor, "batch c_out h w"]:
        """Widen the feature maps of one scale."""
        return F.relu(self.residual(x) + self.shortcut(x), inplace=True)


class Head(nn.Module):
    """The classifier that reads all scales of a state.

    Each scale passes a bottleneck; from the finest on, the sum so far is halved and added to the next; the coarsest is
    widened, averaged over its pixels and classified.

    Args:
        layout: Scales of the state.
        head_channels: Width of the bottleneck of each scale.
        final_channels: Features that the linear classifier reads.
        num_classes: Number of logits.
    """

    def __init__(
        self, layout: StateLayout, head_channels: Sequence[int], final_channels: int, num_classes: int
    ) -> None:
        super().__init__()
        self.layout = layout
        widths = [_BOTTLENECK_EXPANSION * channels for channels in head_channels]
        self.bottlenecks = nn.ModuleList(map(Bottleneck, layout.channels, head_channels))
        self.downsamples = nn.ModuleList(
            _convolution(finer, coarser, 3, stride=2, bias=True) for finer, coarser in pairwise(widths)
        )
        self.final = _convolution(widths[-1], final_channels, 1, bias=True)
        self.classifier = nn.Linear(final_channels, num_classes)
        _initialise(self)

    def forward(self, z: Flat) -> Float[Tensor, "batch classes"]:
        """Logits of a flat state."""
        finest, *coarser = [
            bottleneck(scale) for bottleneck, scale in zip(self.bottlenecks, self.layout.split(z), strict=True)
        ]
        features = finest
        for downsample, scale in zip(self.downsamples, coarser, strict=True):
            features = scale + downsample(features)
        return self.classifier(self.final(features).mean(dim=(2, 3)))


@dataclass(frozen=True)
class MDEQConfig(EquilibriumConfig):
    """Everything that tells one MDEQ from another, apart from its images and classes, as in `EquilibriumConfig`.

    Args:
        channels: Feature maps per scale, finest first.
        head_channels: Width of the head's bottleneck per scale.
        final_channels: Features that the linear classifier reads.
        expansion: Width of a residual block's hidden layer, in multiples of the scale's channels.
        groups: Groups of the GroupNorms in blocks and fusion.
        post_groups: Groups of the GroupNorms after the fusion.
        dropout: Probability with which a sample loses a channel of a residual block, while training.

    Raises:
        InputError: If there is no scale, `channels` and `head_channels` differ in length, a size is not positive, the
            groups do not divide the channels, or the images have not two sides.
    """

    kind: ClassVar[str] = "MDEQ"

    channels: tuple[int, ...]
    head_channels: tuple[int, ...]
    final_channels: int
    expansion: int = 5
    groups: int = 8
    post_groups: int = 4
    dropout: float = 0.22

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.channels or len(self.channels) != len(self.head_channels):
            raise InputError(
                f"There are {len(self.channels)} channels and {len(self.head_channels)} head_channels; "
                "give one of each per scale."
            )
        sizes = {name: getattr(self, name) for name in ("final_channels", "expansion", "groups", "post_groups")}
        check_counts(channels=min(self.channels), head_channels=min(self.head_channels), **sizes)
        for groups in (self.groups, self.post_groups):
            if any(channels % groups for channels in self.channels):
                raise InputError(f"{groups} groups do not divide channels {self.channels}; give multiples of them.")

    @property
    def layout(self) -> StateLayout:
        """Where each scale lies in the state; raises `InputError` where the images cannot be halved so often."""
        return StateLayout(self.channels, self.sides)

    @property
    def widths(self) -> tuple[Any, ...]:
        """What the shapes of the weights show, and what tells the sizes apart."""
        return self.channels, self.head_channels, self.final_channels, self.expansion

    @property
    @override
    def summary(self) -> str:
        size = "".join(f" `{name}`" for name, preset in PRESETS.items() if preset.widths == self.widths)
        return f"MDEQ{size}, {len(self.channels)} scales of {', '.join(map(str, self.channels))} feature maps"

    @override
    def network(self, num_classes: int, in_channels: int) -> "MDEQ":
        return MDEQ(self, num_classes, in_channels)


PRESETS: Mapping[str, MDEQConfig] = {
    "nano": MDEQConfig(
        (16, 16),
        (8, 8),
        final_channels=64,
        expansion=1,
        groups=1,
        post_groups=1,
        dropout=0.0,
        image_size=8,
        max_steps=6,
    ),
    "tiny": MDEQConfig((24, 24), (8, 16), final_channels=200, dropout=0.25, max_steps=18),
    "small": MDEQConfig((16, 32, 64, 128), (4, 8, 16, 32), final_channels=512, expansion=3, groups=4, dropout=0.1),
    "large": MDEQConfig((32, 64, 128, 256), (14, 28, 56, 112), final_channels=1680),
    "xl": MDEQConfig((72, 144, 288, 576), (20, 40, 80, 160), final_channels=1800),
}


class MDEQ(EquilibriumModel[MDEQConfig]):
    """An MDEQ that remembers its configuration, so that it can be saved and made again.

    Args:
        config: The configuration.
        num_classes: Number of logits.
        in_channels: Channels of the images.
    """

    def __init__(self, config: MDEQConfig, num_classes: int, in_channels: int) -> None:
        check_counts(num_classes=num_classes, in_channels=in_channels)
        layout = config.layout
        super().__init__(
            Injection(in_channels, config.channels[0], pointwise=len(config.channels) > 2),
            MultiscaleCell(layout, config.expansion, config.groups, config.post_groups, config.dropout),
            Head(layout, config.head_channels, config.final_channels, num_classes),
            **config.iteration,
        )
        self.config, self.num_classes, self.in_channels = config, num_classes, in_channels


def mdeq(
    size: str | MDEQConfig, num_classes: int = 10, in_channels: int = 3, image_size: int | tuple[int, int] | None = None
) -> MDEQ:
    """An MDEQ with fresh weights.

    The weights start as in the published code: convolutions, weights and biases, from N(0, 0.01²), BatchNorm at 1 and
    0. That draw does not reach weight-normalised convolutions, there or here: it falls on a product g v / ‖v‖ that the
    first solve computes anew, so that v keeps PyTorch's default U(−1/√n, 1/√n), n = fan-in, and g = ‖v‖.

    Args:
        size: Name of a preset, "nano", "tiny", "small", "large" or "xl", or a configuration of your own.
        num_classes: Number of logits.
        in_channels: Channels of the images.
        image_size: Side, or height and width, of the images in pixels; the preset's by default.

    Returns:
        The model: raw pixels in [0, 1], (B, in_channels, H, W), to logits (B, num_classes).

    Raises:
        InputError: If there is no such preset, there are no classes or channels, or the images cannot be halved once
            per further scale.
    """
    config = look_up("MDEQ of size", size, PRESETS) if isinstance(size, str) else size
    return config.sized(image_size).network(num_classes, in_channels)


def _convolution(
    in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, bias: bool = False
) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2, bias=bias),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def _norm_per_output(
    weight: Float[Tensor, "out_channels in_channels side side"],
) -> Float[Tensor, "out_channels 1 1 1"]:
    """Euclidean norm of the weights of each output channel."""
    return torch.linalg.vector_norm(weight, dim=(1, 2, 3), keepdim=True)


def _initialise(module: nn.Module) -> None:
    """Draw plain convolutions from N(0, 0.01²) and put all weights in channels-last format."""
    for child in module.modules():
        if isinstance(child, nn.Conv2d):
            nn.init.normal_(child.weight, std=0.01)
            if child.bias is not None:
                nn.init.normal_(child.bias, std=0.01)
    module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
