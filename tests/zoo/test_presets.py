"""The table of models: a network registered by one line is built, trained, saved and loaded like ours."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import robustdeq as rd
from robustdeq.base.errors import InputError
from robustdeq.data import load
from robustdeq.training.plan import Plan
from robustdeq.zoo import MODELS, Architecture, ZooModel
from robustdeq.zoo.presets import architecture_kind, architecture_named


@dataclass(frozen=True)
class LinearConfig(Architecture):
    kind: ClassVar[str] = "Linear"

    side: int = 8

    @property
    def summary(self) -> str:
        return f"a linear classifier of {self.side} × {self.side} pixels"

    def network(self, num_classes: int, in_channels: int) -> "Linear":
        return Linear(self, num_classes, in_channels)


class Linear(ZooModel[LinearConfig]):
    def __init__(self, config: LinearConfig, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.config, self.num_classes, self.in_channels = config, num_classes, in_channels
        self.layer = nn.Linear(in_channels * config.side**2, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1))


SIZED = {"mdeq": lambda *a: rd.models.mdeq("nano", *a), "conv": lambda *a: rd.models.conv("digits", *a)}
SIZED |= {"monotone": lambda *a: rd.models.monotone("digits", *a)}


@pytest.mark.parametrize("name", [*SIZED, "resnet18", "wide_resnet34_10"])
def test_model_without_classes_or_channels_is_refused(name: str) -> None:
    make = SIZED.get(name) or getattr(rd.models, name)
    with pytest.raises(InputError, match=r"num_classes is 0; give 1 or more\."):
        make(0, 1)
    with pytest.raises(InputError, match=r"in_channels is 0; give 1 or more\."):
        make(10, 0)


@pytest.mark.parametrize("name", SIZED)
@pytest.mark.parametrize("image_size", [(8, 8, 8), [8], ()], ids=str)
@pytest.mark.usefixtures("unchecked")
def test_images_that_have_not_two_sides_are_refused(name: str, image_size: Any) -> None:
    with pytest.raises(InputError, match="; give the side, or height and width, of the images"):
        SIZED[name](10, 1, image_size)


def test_network_from_outside_is_registered_by_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = load("digits").require("train")
    with pytest.raises(InputError, match="there is no model 'linear'; choose one of nano, "):
        Plan("linear").build(images)
    unregistered = Linear(LinearConfig(), 10, 1)
    with pytest.raises(InputError, match="this Linear could not be rebuilt from a file"):
        rd.save(unregistered, tmp_path / "net")
    monkeypatch.setitem(MODELS, "linear", LinearConfig())
    model, x = Plan("linear").build(images), torch.rand(3, 1, 8, 8)
    assert isinstance(model, Linear)
    rd.save(model, tmp_path / "net")
    loaded = rd.load(tmp_path / "net")
    assert isinstance(loaded, Linear)
    assert torch.equal(loaded(x), model(x))
    assert "a linear classifier of 8 × 8 pixels" in (tmp_path / "net.md").read_text(encoding="utf-8")
    monkeypatch.delitem(MODELS, "linear")
    with pytest.raises(InputError, match="holds a model that this version does not know"):
        rd.load(tmp_path / "net")


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_built_under_the_kind_that_its_file_names(name: str) -> None:
    config = architecture_named(name)
    with torch.device("meta"):
        model = config.build(7, 1)
    assert type(model).__name__ == config.kind
    assert architecture_kind(config.kind) is type(config)
    assert (model.config, model.num_classes, model.in_channels) == (config, 7, 1)


@pytest.mark.parametrize(
    ("make", "takes"),
    [
        (lambda: rd.models.mdeq("nano", in_channels=1), "(1, 8, 8)"),
        (lambda: rd.models.ResNet(rd.models.ResNetConfig((1,), 2), 10, 1), "(1, any, any)"),
    ],
    ids=["images of one size", "images of any size"],
)
def test_images_that_a_model_was_not_made_for_are_refused(make: Any, takes: str) -> None:
    model = make()
    model.check_images((1, 8, 8), 10, "digits")
    for shape, classes in (((3, 8, 8), 10), ((1, 8, 8), 9), ((1, 8, 8), 11)):
        with pytest.raises(InputError) as refused:
            model.check_images(shape, classes, "other", "net.safetensors")
        assert str(refused.value) == (
            f"net.safetensors was made for images of shape {takes} in 10 classes, and other has {shape} in {classes}; "
            "give other weights or other data."
        )
