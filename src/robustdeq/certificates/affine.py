"""Affine layers with every weight replaced by its absolute value: r ↦ |A| r + |b|.

With a zero for b, it maps how far each input may move to how far each output may (interval arithmetic); with the values
of the inputs for r, it scales the rounding errors of A x + b (Higham, "Accuracy and stability of numerical algorithms",
2nd edition, Section 3.5).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from robustdeq.base.errors import InputError

_UNSIGNED = (nn.Identity, nn.Flatten, nn.Unflatten, nn.PixelUnshuffle, nn.ZeroPad2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)


def magnified(layer: nn.Module) -> nn.Module:
    """A copy of an affine layer in eval mode, with absolute weights; raises `InputError` for any other layer.

    A class that is derived from that of a layer is another one: nobody knows what it computes.
    """
    if type(layer) is nn.Sequential:
        return nn.Sequential(*map(magnified, layer))
    if type(layer) is nn.Linear or type(layer) is nn.Conv2d:
        return _weighted(layer)
    if type(layer) is nn.BatchNorm1d or type(layer) is nn.BatchNorm2d:
        return _normalised(layer)
    if type(layer) in _UNSIGNED:
        return layer
    raise InputError(
        f"a certificate cannot see through {type(layer).__name__}; build the injection and the classifier of linear "
        "layers, convolutions, batch normalisation, average pooling and reshapes."
    )


def _weighted(layer: nn.Linear | nn.Conv2d) -> nn.Module:
    if isinstance(layer, nn.Conv2d) and layer.padding_mode not in ("zeros", "circular"):
        raise InputError(f"a certificate cannot see through padding of mode {layer.padding_mode!r}; pad with zeros.")
    copied = copy.deepcopy(layer)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.abs_()
    return copied


def _normalised(layer: nn.BatchNorm1d | nn.BatchNorm2d) -> nn.Module:
    if layer.running_mean is None or layer.running_var is None:
        raise InputError("batch normalisation without running averages mixes images; track them.")
    scale = (layer.running_var + layer.eps).rsqrt()
    scale = scale if layer.weight is None else scale * layer.weight.detach().abs()
    bias = layer.running_mean.abs() * scale
    return _Scaled(scale, bias if layer.bias is None else bias + layer.bias.detach().abs())


class _Scaled(nn.Module):
    """r ↦ scale · r + bias, a number for each channel."""

    def __init__(self, scale: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.scale, self.bias = scale, bias

    def forward(self, r: Tensor) -> Tensor:
        """The scaled input."""
        shape = (-1, *[1] * (r.ndim - 2))
        return r * self.scale.view(shape) + self.bias.view(shape)


def linear_part(layer: nn.Module, x: Tensor) -> Tensor:
    """A x, for an affine layer A x + b."""
    return layer(x) - layer(torch.zeros_like(x[:1]))


def matrix(layer: nn.Module, inputs: Tensor) -> Tensor:
    """A of an affine layer, (outputs, inputs), from the shape and type of a batch of its inputs."""
    count = inputs[0].numel()
    identity = torch.eye(count, dtype=inputs.dtype, device=inputs.device).view(count, *inputs.shape[1:])
    return linear_part(layer, identity).flatten(1).T
