"""What a single-scale DEQ promises: the tutorial's cell, its sizes, a state with channels last."""

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from robustdeq.base.errors import InputError
from robustdeq.zoo.conv import CONV_SIZES, ConvConfig, LinearInjection, ResidualCell, conv

CHANNELS, HIDDEN, GROUPS = 4, 6, 2


@pytest.fixture
def cell() -> ResidualCell:
    torch.manual_seed(0)
    cell = ResidualCell(CHANNELS, HIDDEN, GROUPS).double()
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return cell


def state_and_injection() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(2, 3, 5, CHANNELS).double(), torch.randn(2, 3, 5, CHANNELS).double()


def convolved(x: Tensor, weight: Tensor) -> Tensor:
    """A same-size 3×3 convolution of channels-last maps, position by position."""
    rows, columns = x.shape[1:3]
    padded = torch.zeros(len(x), rows + 2, columns + 2, x.shape[3]).double()
    padded[:, 1:-1, 1:-1] = x
    result = torch.empty(len(x), rows, columns, len(weight)).double()
    for i in range(rows):
        for j in range(columns):
            result[:, i, j] = torch.einsum("nabc,ocab->no", padded[:, i : i + 3, j : j + 3], weight)
    return result


def normalised(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """GroupNorm of channels-last maps from its definition."""
    grouped = x.unflatten(3, (GROUPS, -1))
    mean = grouped.mean((1, 2, 4), keepdim=True)
    variance = (grouped - mean).square().mean((1, 2, 4), keepdim=True)
    return ((grouped - mean) / (variance + 1e-5).sqrt()).flatten(3) * scale + shift


def test_cell_is_the_residual_layer_of_the_tutorial(cell: ResidualCell) -> None:
    z, u = state_and_injection()
    hidden = normalised(convolved(z, cell.conv1.weight).relu(), cell.norm1.weight, cell.norm1.bias)
    update = normalised(u + convolved(hidden, cell.conv2.weight), cell.norm2.weight, cell.norm2.bias)
    expected = normalised((z + update).relu(), cell.norm3.weight, cell.norm3.bias)
    torch.testing.assert_close(cell(z, u), expected, rtol=1e-10, atol=1e-10)


def test_cell_is_differentiable_in_state_and_injection(cell: ResidualCell) -> None:
    z, u = (tensor.requires_grad_() for tensor in state_and_injection())
    assert gradcheck(cell, (z, u))


def test_injection_puts_patches_of_pixels_into_channels() -> None:
    torch.manual_seed(0)
    injection = LinearInjection(3, CHANNELS, patch=2).double().eval()
    x = torch.rand(2, 3, 8, 12).double()
    u = injection(x)
    assert u.shape == (2, 4, 6, CHANNELS)
    assert u.is_contiguous()
    changed = x.clone()
    changed[:, :, 2:4, 4:6] += 1  # one patch, which only its neighbours see
    differs = (injection(changed) != u).any(3)
    assert differs[:, :3, 1:4].all()
    assert differs.sum() == 2 * 9


@pytest.mark.parametrize(
    ("size", "channels", "side", "parameters"), [("digits", 1, 8, 24_442), ("small", 3, 32, 296_906)]
)
def test_sizes(size: str, channels: int, side: int, parameters: int) -> None:
    deq = conv(size, in_channels=channels).eval()
    assert sum(parameter.numel() for parameter in deq.parameters()) == parameters
    x = torch.rand(2, channels, side, side)
    assert deq(x).shape == (2, 10)
    assert deq.solver.max_steps == 8
    with pytest.raises(InputError, match="this model was made for"):
        deq(torch.rand(2, channels, side, side + 8))


def test_samples_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    deq, x = conv("digits", in_channels=1).double().eval(), torch.rand(3, 1, 8, 8).double()
    alone = torch.cat([deq(image[None]) for image in x])
    torch.testing.assert_close(deq(x), alone, rtol=1e-6, atol=1e-8)


def test_images_of_another_size() -> None:
    assert conv("digits", in_channels=1, image_size=(16, 24))(torch.rand(2, 1, 16, 24)).shape == (2, 10)
    with pytest.raises(InputError, match="images of 30×32 pixels do not fall into 4 × 4 parts of 4-pixel patches"):
        conv("small", image_size=(30, 32))


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(InputError, match=f"choose one of {', '.join(CONV_SIZES)}"):
        conv("large")
    with pytest.raises(InputError, match="8 groups do not divide 12 channels"):
        ConvConfig(channels=12, hidden=16)
