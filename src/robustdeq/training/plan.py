"""A plan: which model is trained, on what, by which recipe; it is what a recipe file holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jsonargparse import ArgumentParser, set_parsing_settings

from robustdeq.base.errors import InputError, hint
from robustdeq.data import Images
from robustdeq.deq.gradients import Phantom, StateGradient
from robustdeq.recipes import read_recipe
from robustdeq.training.recipe import Recipe
from robustdeq.zoo import ZooModel
from robustdeq.zoo.presets import architecture_named

set_parsing_settings(instantiate_subclass_spec_in_any=False)  # a recipe makes what we typed, and no other class


@dataclass(frozen=True)
class Plan:
    """Which model is trained, on what, and how.

    Args:
        model: its name in `zoo.MODELS`.
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

    def build(self, images: Images) -> ZooModel:
        """The model with fresh weights, for such images.

        Raises:
            InputError: there is no such model, its architecture has no such setting, or the images do not fit.
        """
        config = architecture_named(self.model)
        settings = [setting.name for setting in dataclasses.fields(config)]
        for key in self.architecture:
            if key not in settings:
                raise InputError(f"the architecture of {self.model} has no {key!r}; {hint(key, sorted(settings))}")
        given = {key: tuple(value) if isinstance(value, list) else value for key, value in self.architecture.items()}
        channels, height, width = images.pixels.shape[1:]
        config = dataclasses.replace(config, **given)
        return config.build(len(images.classes), channels, (height, width), self.gradient)


def read_plan(name: str) -> Plan:
    """The plan in a recipe file.

    Args:
        name: of a packaged recipe, or a YAML file of one's own.

    Raises:
        InputError: there is none.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_function_arguments(_plan)
    settings: Any = parser.instantiate(parser.parse_object(read_recipe(name)))
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
