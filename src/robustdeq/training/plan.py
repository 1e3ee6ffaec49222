"""A plan: which model is trained, on what, by which recipe; it is what a recipe file holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from jsonargparse import ArgumentParser, set_parsing_settings
from torch import nn

from robustdeq.base.errors import InputError, hint, require
from robustdeq.base.imports import is_import_path
from robustdeq.base.plain import check_fits
from robustdeq.data import Images
from robustdeq.deq import DEQ
from robustdeq.deq.gradients import Phantom, StateGradient
from robustdeq.recipes import read_recipe
from robustdeq.training.recipe import Recipe
from robustdeq.zoo import ZooModel
from robustdeq.zoo.factory import Factory, check_takes
from robustdeq.zoo.presets import architecture_named

set_parsing_settings(instantiate_subclass_spec_in_any=False)  # a recipe makes what we typed, and no other class


@dataclass(frozen=True)
class Plan:
    """Which model is trained, on what, and how.

    Args:
        model: its name in `zoo.MODELS`, or the import path of a factory.
        architecture: what of the model differs from the preset, or the arguments of the factory.
        data: the name or the place of the data.
        gradient: how a DEQ is differentiated for its weights, and for its adversaries unless the objective says.
        recipe: how it is trained.
    """

    model: str = "small"
    architecture: Mapping[str, Any] = field(default_factory=dict)
    data: str = "cifar10"
    gradient: StateGradient = field(default_factory=lambda: Phantom(steps=5, damping=0.5))
    recipe: Recipe = field(default_factory=Recipe)

    @property
    def factory(self) -> Factory | None:
        """What makes the model; None where it is one of the zoo."""
        return Factory(self.model, self.architecture) if is_import_path(self.model) else None

    def build(self, images: Images) -> nn.Module:
        """The model with fresh weights, for such images; the code of its factory runs, where it has one.

        Raises:
            InputError: there is no such model, its architecture has no such setting, or none of that type, or the
                images do not fit.
        """
        model = self._of_the_zoo(images) if self.factory is None else self.factory.make()
        if isinstance(model, DEQ):
            model.gradient = self.gradient
        check_takes(model, images, self.model)
        return model

    def _of_the_zoo(self, images: Images) -> ZooModel:
        config = architecture_named(self.model)
        settings = [setting.name for setting in dataclasses.fields(config)]
        for key in self.architecture:
            if key not in settings:
                raise InputError(f"the architecture of {self.model} has no {key!r}; {hint(key, sorted(settings))}")
        check_fits(self.model, self.architecture, get_type_hints(type(config)))
        given = {key: tuple(value) if isinstance(value, list) else value for key, value in self.architecture.items()}
        shape = images.pixels.shape[1:]
        require(len(shape) == 3, f"{images.source} has samples of shape {tuple(shape)}, and {self.model} takes images.")
        channels, height, width = shape
        config = dataclasses.replace(config, **given)
        return config.build(len(images.classes), channels, (height, width))


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
