"""Absolute layers bound how far the outputs of an affine layer move, and refuse every other layer."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from robustdeq.base.errors import InputError
from robustdeq.certificates.affine import linear_part, magnified, matrix

LAYERS = (
    nn.Conv2d(2, 3, 3, padding=1, stride=2),
    nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular", bias=False),
    nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(8, 3, 1), nn.BatchNorm2d(3)),
    nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8, 5), nn.BatchNorm1d(5, affine=False)),
    nn.Sequential(nn.ZeroPad2d(1), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Unflatten(1, (2, 9)), nn.Identity()),
)
every_layer = pytest.mark.parametrize("layer", [layer.double().eval() for layer in LAYERS], ids=repr)


@pytest.fixture(autouse=True, scope="module")
def used() -> None:
    """Batch normalisation with averages that are not those it begins with."""
    torch.manual_seed(0)
    for layer in LAYERS:
        for module in layer.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_()
                module.running_var.uniform_(0.1, 2)
                for weight in module.parameters():
                    nn.init.normal_(weight)


@every_layer
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_absolute_layer_bounds_and_reaches_how_far_outputs_move(layer: nn.Module, seed: int) -> None:
    torch.manual_seed(seed)
    x, reach = torch.randn(1, 2, 4, 4).double(), torch.rand(1, 2, 4, 4).double()
    bound = linear_part(magnified(layer), reach)
    moved = layer(x + reach * (2 * torch.rand(50, 2, 4, 4).double() - 1)) - layer(x)
    assert (moved.abs() <= bound + 1e-12).all()
    signs = matrix(layer, x)[0].sign().view(x.shape)
    furthest = (layer(x + reach * signs) - layer(x)).flatten()[0]
    torch.testing.assert_close(furthest, bound.flatten()[0])


@every_layer
def test_absolute_layer_scales_rounding(layer: nn.Module) -> None:
    torch.manual_seed(1)
    x = torch.randn(6, 2, 4, 4)
    scale, exact = magnified(layer)(x.double().abs()), layer(x.double())
    rough = layer.float()(x).double()
    layer.double()
    assert ((rough - exact).abs() <= 100 * torch.finfo(torch.float32).eps * scale).all()


@every_layer
def test_matrix_is_the_linear_part(layer: nn.Module) -> None:
    x = torch.randn(3, 2, 4, 4).double()
    torch.testing.assert_close(linear_part(layer, x).flatten(1), x.flatten(1) @ matrix(layer, x).T)


class Squared(nn.Linear):
    """A layer that is made of an affine one and is none."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) ** 2


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (Squared(2, 2), "cannot see through Squared"),
        (nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2)), "cannot see through ParametrizedLinear"),
        (nn.Sequential(nn.Linear(2, 2), nn.ReLU()), "cannot see through ReLU"),
        (nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), "padding of mode 'reflect'"),
        (nn.BatchNorm2d(3, track_running_stats=False), "mixes images"),
    ],
)
def test_other_layers_are_refused(layer: nn.Module, said: str) -> None:
    with pytest.raises(InputError, match=said):
        magnified(layer)
