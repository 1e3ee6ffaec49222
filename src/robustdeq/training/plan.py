"""A plan: which model is trained, on what, by which recipe; it is what a recipe file holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jsonargparse import ArgumentParser

from robustdeq.base.errors import InputError, hint
from robustdeq.data import Images
from robustdeq.deq.gradients import Phantom, StateGradient
from robustdeq.training.recipe import Recipe
from robustdeq.training.recipes import locate_recipe
from robustdeq.zoo import PRESETS, MDEQConfig, ResNet, ResNetConfig, WideResNet, WideResNetConfig, mdeq
from robustdeq.zoo.card import Model


def _deq(config: MDEQConfig, classes: int, shape: tuple[int, ...], gradient: StateGradient) -> Model:
    channels, height, width = shape
    deq = mdeq(config, classes, channels, (height, width))
    deq.gradient = gradient
    return deq


_MODELS: Mapping[str, tuple[Any, Callable[[Any, int, tuple[int, ...], StateGradient], Model]]] = {
    **{size: (preset, _deq) for size, preset in PRESETS.items()},
    "resnet18": (ResNetConfig(), lambda config, classes, shape, _: ResNet(config, classes, shape[0])),
    "wrn34-10": (WideResNetConfig(34, 10), lambda config, classes, shape, _: WideResNet(config, classes, shape[0])),
}


@dataclass(frozen=True)
class Plan:
    """Which model is trained, on what, and how.

    Args:
        model: the size of an MDEQ, or the name of an explicit network.
        architecture: what of the model differs from the preset.
        data: the name or the place of the data.
        gradient: how a DEQ is differentiated for its weights, and for its adversaries unless the objective says.
        recipe: how it is trained.
    """

    model: str = "small"
    architecture: Mapping[str, Any] = field(default_factory=dict)
    data: str = "cifar10"
    gradient: StateGradient = field(default_factory=lambda: Phantom(steps=5, damping=0.5))
    recipe: Recipe = field(default_factory=Recipe)

    def build(self, images: Images) -> Model:
        """The model with fresh weights, for such images.

        Raises:
            InputError: there is no such model, its architecture has no such setting, or the images do not fit.
        """
        if self.model not in _MODELS:
            raise InputError(f"there is no model {self.model!r}; choose one of {', '.join(_MODELS)}.")
        config, make = _MODELS[self.model]
        settings = [setting.name for setting in dataclasses.fields(config)]
        for key in self.architecture:
            if key not in settings:
                meant = hint(key, settings, f"choose from {', '.join(settings)}.")
                raise InputError(f"the architecture of {self.model} has no {key!r}; {meant}")
        given = {key: tuple(value) if isinstance(value, list) else value for key, value in self.architecture.items()}
        shape = tuple(images.pixels.shape[1:])
        return make(dataclasses.replace(config, **given), len(images.classes), shape, self.gradient)


def read_plan(name: str) -> Plan:
    """The plan in a recipe file.

    Args:
        name: of a packaged recipe, or a YAML file of one's own.

    Raises:
        InputError: there is none.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_function_arguments(_plan)
    settings: Any = parser.instantiate(parser.parse_path(locate_recipe(name)))
    return _plan(**settings.as_dict())


def _plan(
    model: str = "small",
    architecture: dict[str, Any] | None = None,
    data: str = "cifar10",
    gradient: StateGradient = Phantom(steps=5, damping=0.5),  # noqa: B008
    **settings: Any,
) -> Plan:
    """A plan from what stands in a file, where the settings of the recipe are not nested."""
    return Plan(model, architecture or {}, data, gradient, Recipe(**settings))
