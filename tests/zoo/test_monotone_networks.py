"""Monotone DEQs of the zoo: sizes, settings, cards, and the published networks they are read from."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import robustdeq as rd
from robustdeq import cli
from robustdeq.base.errors import InputError
from robustdeq.zoo.convert import convert_checkpoint, from_checkpoint
from robustdeq.zoo.monotone import MONOTONE_SIZES, MonotoneConfig, monotone

LONG = rd.solvers.Picard(max_steps=400, tol=0.0)


class Published(nn.Module):
    """A network of one monotone layer as its authors' code keeps it, solved by forward-backward splitting."""

    def __init__(self, layer: nn.Module, classifier: nn.Linear) -> None:
        super().__init__()
        self.mon = nn.Module()
        self.mon.linear_module = layer
        self.Wout = classifier


class Dense(Published):
    def __init__(self, inputs: int, width: int) -> None:
        layer = nn.Module()
        layer.U = nn.Linear(inputs, width)
        layer.A, layer.B = (nn.Linear(width, width, bias=False) for _ in "ab")
        super().__init__(layer, nn.Linear(width, 10))

    def forward(self, x: Tensor, m: float) -> Tensor:
        layer = self.mon.linear_module
        a, b = layer.A.weight, layer.B.weight
        weight = (1 - m) * torch.eye(len(a), dtype=a.dtype) - a.T @ a + b - b.T
        u = layer.U(x.flatten(1))
        z = torch.zeros_like(u)
        for _ in range(2000):
            z = F.relu(z + 0.1 * (z @ weight.T + u - z))
        return self.Wout(z)


class Convolutional(Published):
    def __init__(self, channels: int, side: int) -> None:
        layer = nn.Module()
        layer.U = nn.Conv2d(1, channels, 3)
        layer.A, layer.B = (nn.Conv2d(channels, channels, 3, bias=False) for _ in "ab")
        layer.g, layer.h = (nn.Parameter(torch.tensor(scale)) for scale in (1.3, 0.8))
        super().__init__(layer, nn.Linear(channels * ((side + 2) // 4) ** 2, 10))

    def forward(self, x: Tensor, m: float) -> Tensor:
        layer = self.mon.linear_module
        a = layer.A.weight / layer.A.weight.norm()
        b = layer.h * layer.B.weight / layer.B.weight.norm()

        def around(z: Tensor) -> Tensor:
            return F.pad(z, (1, 1, 1, 1), mode="circular")

        def adjoint(z: Tensor, weight: Tensor) -> Tensor:
            return F.conv_transpose2d(around(z), weight)[:, :, 2:-2, 2:-2]

        u = layer.U(around(F.pad(x, (1, 1, 1, 1))))
        z = torch.zeros_like(u)
        for _ in range(1000):
            gram = adjoint(F.conv2d(around(z), a), a)
            moved = (1 - m) * z - layer.g * gram + F.conv2d(around(z), b) - adjoint(z, b) + u
            z = F.relu(z + 0.1 * (moved - z))
            z[:, :, [0, -1]] = 0
            z[:, :, :, [0, -1]] = 0
        return self.Wout(F.avg_pool2d(z, 4).flatten(1))


def test_settings_draw_no_number() -> None:
    before = torch.get_rng_state()
    for settings in MONOTONE_SIZES.values():
        replace(settings, m=2.0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("m", [1.0, 0.4])
@pytest.mark.parametrize(
    ("network", "shape"),
    [(Dense(49, 11), (1, 7, 7)), (Dense(75, 6), (3, 5, 5)), (Convolutional(3, 8), (1, 8, 8))],
    ids=["dense", "colours", "convolutional"],
)
def test_published_checkpoint_gives_the_published_logits(
    tmp_path: Path, network: Dense | Convolutional, shape: tuple[int, int, int], m: float
) -> None:
    torch.save(network.state_dict(), tmp_path / "mon.pt")
    torch.manual_seed(0)
    x = torch.rand(4, *shape)
    found = from_checkpoint(tmp_path / "mon.pt")
    config = found.config
    assert isinstance(config, MonotoneConfig)
    if m != 1.0:
        found = from_checkpoint(tmp_path / "mon.pt", config=replace(config, m=m))
    model = found.with_settings(solver=LONG).double()
    with torch.no_grad():
        torch.testing.assert_close(model(x.double()), network.double()(x.double(), m))
    network.float()


def test_converted_checkpoint_is_loaded_like_any_model(tmp_path: Path) -> None:
    torch.save(Dense(64, 5).state_dict(), tmp_path / "mon.pt")
    model = convert_checkpoint(tmp_path / "mon.pt", tmp_path / "mon.safetensors")
    x = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(rd.load(tmp_path / "mon.safetensors")(x), model(x))


def test_number_of_steps_leaves_the_rest_of_the_solve_as_it_is(tmp_path: Path) -> None:
    torch.save(Dense(64, 5).state_dict(), tmp_path / "mon.pt")
    usual = from_checkpoint(tmp_path / "mon.pt").solver
    assert isinstance(usual, rd.solvers.Picard)
    cli.main(["convert", str(tmp_path / "mon.pt"), "--max_steps", "7"])
    assert rd.load(tmp_path / "mon.safetensors").solver == replace(usual, max_steps=7)


def test_published_weights_that_are_not_monotone_are_refused(tmp_path: Path) -> None:
    network = Convolutional(2, 8)
    with torch.no_grad():
        network.mon.linear_module.g.fill_(-0.5)
    torch.save(network.state_dict(), tmp_path / "mon.pt")
    with pytest.raises(InputError, match=r"g of AᵀA is -0\.5, so that W is not monotone"):
        from_checkpoint(tmp_path / "mon.pt")


def test_configuration_of_another_network_is_refused(tmp_path: Path) -> None:
    torch.save(Dense(64, 5).state_dict(), tmp_path / "mon.pt")
    with pytest.raises(InputError, match="give a MonotoneConfig"):
        from_checkpoint(tmp_path / "mon.pt", config=rd.models.PRESETS["nano"])


def test_setting_that_no_monotone_model_has_is_refused() -> None:
    with pytest.raises(InputError, match=r"a monotone model has no 'sides'; did you mean side\?"):
        monotone("digits", sides=3)


@pytest.mark.parametrize("size", MONOTONE_SIZES)
@pytest.mark.parametrize("operator", ["monotone", "contracting"])
def test_fresh_model_converges(size: str, operator: str) -> None:
    torch.manual_seed(0)
    model = monotone(size, in_channels=1, operator=operator).eval()
    x = torch.rand(3, *model.image_shape)
    with torch.no_grad():
        z = model.equilibrium(x)
        residual = model.residual(x, model.cell.positive(z))
    assert (residual.flatten(1).norm(dim=1) < 1e-3 * z.flatten(1).norm(dim=1)).all()
    assert model(x).shape == (3, 10)


@pytest.mark.parametrize("splitting", ["forward-backward", "peaceman-rachford"])
def test_saved_model_gives_the_same_logits(tmp_path: Path, splitting: str) -> None:
    model = monotone("digits", in_channels=1, splitting=splitting, m=0.7).eval()
    rd.save(model, tmp_path / "model.safetensors")
    x = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(rd.load(tmp_path / "model.safetensors")(x), model(x))


def test_splittings_share_weights_and_answer() -> None:
    torch.manual_seed(0)
    models = [monotone("digits", in_channels=1, splitting=name) for name in ("forward-backward", "peaceman-rachford")]
    models[1].load_state_dict(models[0].state_dict())
    x = torch.rand(2, 1, 8, 8).double()
    one, other = (model.double().eval().with_settings(solver=LONG)(x) for model in models)
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"operator": "montone"}, "monotone"),
        ({"splitting": "douglas"}, "splitting"),
        ({"m": 0.0}, "positive modulus"),
        ({"patch": 3}, "do not fill"),
        ({"pooled": 30}, "smaller pooled"),
        ({"side": 2}, "odd"),
        ({"channels": 0}, "1 or more"),
        ({"m": math.nan}, "positive modulus"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        monotone("digits", **settings)
