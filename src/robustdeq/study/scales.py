"""Scales: the paper's experiments at other sizes, on other images and in other times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from robustdeq.attacks import PGD
from robustdeq.base.errors import look_up
from robustdeq.study.configurations import NETWORKS, UNROLLED, Configuration
from robustdeq.training import AdversarialTraining, Recipe, Regularization, Schedule
from robustdeq.training.plan import Plan, read_plan
from robustdeq.zoo.factory import Factory

_PUBLISHED_SOLVE = {"max_steps": 8, "tail_steps": 5, "tail_damping": 0.5}


@dataclass(frozen=True)
class Budget:
    """What of a training's schedule is cut short; None leaves what the recipe has.

    Args:
        max_steps: the most steps of the optimiser.
        validation_images: how many images are attacked in a validation.
        validations: how many validations there are.
    """

    max_steps: int | None = None
    validation_images: int | None = None
    validations: int | None = None

    def of(self, schedule: Schedule) -> Schedule:
        """The schedule within this budget."""
        limits = {name: limit for name, limit in asdict(self).items() if limit is not None}
        return replace(
            schedule, **{name: min(limit, getattr(schedule, name) or limit) for name, limit in limits.items()}
        )


@dataclass(frozen=True)
class Scale:
    """In what size, on what, and for how long the models of the experiments are trained.

    Args:
        name: on the command line.
        sizes: of the DEQs in the place of the paper's DEQ-Large and DEQ-XL; where the second is missing, so are its
            rows.
        time: about how long one training takes, and on what.
        recipe: the packaged recipe whose data, attacks and schedule replace those of the published ones.
        networks: what of the explicit networks differs from ResNet-18 and WRN-34-10.
        factory: what makes somebody's DEQ in the place of the sizes; None for these.
    """

    name: str
    sizes: tuple[str, ...]
    time: str
    recipe: str = UNROLLED.recipe
    networks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    factory: Factory | None = None

    def of(self, factory: Factory) -> Scale:
        """The same scale with somebody's DEQ, whose solve and tail are set as the published ones are."""
        return replace(self, sizes=(factory.path,), factory=factory)

    @cached_property
    def base(self) -> Plan:
        """What all trainings at this scale share."""
        return read_plan(self.recipe)

    @property
    def data(self) -> str:
        """The images, unless others are given."""
        return self.base.data

    @property
    def attack(self) -> PGD:
        """PGD and the threat model of all evaluations."""
        return self.base.recipe.validation.attack

    def plan(self, configuration: Configuration, size: str, budget: Budget | None = None, seed: int = 0) -> Plan:
        """How a configuration is trained at this scale.

        Args:
            configuration: the way of training.
            size: of the DEQ, or the path of its factory; an explicit network has its own.
            budget: what of the schedule is cut short.
            seed: added to the seed of the recipe.
        """
        published = read_plan(configuration.recipe)
        recipe = published.recipe
        if self.recipe != UNROLLED.recipe:
            recipe = self._adapted(recipe, configuration not in NETWORKS)
        schedule = replace((budget or Budget()).of(recipe.schedule), seed=recipe.schedule.seed + seed)
        plan = replace(published, data=self.data, recipe=replace(recipe, schedule=schedule))
        if configuration in NETWORKS:
            return replace(plan, architecture=self.networks.get(configuration.name, {}))
        given = {} if self.factory is None else self.factory.arguments
        return replace(plan, model=size, architecture=_PUBLISHED_SOLVE | dict(published.architecture) | dict(given))

    def _adapted(self, published: Recipe, penalised: bool) -> Recipe:
        """The recipe of this scale with the objective of a published one."""
        ours, adversaries = self.base.recipe, self.base.recipe.objective
        assert isinstance(adversaries, AdversarialTraining)
        objective = published.objective.attacking(adversaries.attack, adversaries.warmup)
        return replace(ours, objective=objective, regularization=ours.regularization if penalised else Regularization())


_NANO_NETWORKS = {"resnet18": {"blocks": (1, 1), "width": 20}, "wrn34-10": {"depth": 16, "widening": 1}}
"""The widths of all networks below are those that come nearest to the parameters of the DEQ of the scale."""

SCALES = {
    scale.name: scale
    for scale in (
        Scale("nano", ("nano", "tiny"), "minutes on a CPU", "nano-unrolled", _NANO_NETWORKS),
        Scale(
            "conv-digits",
            ("conv-digits",),
            "minutes on a CPU",
            "conv-digits-unrolled",
            {"resnet18": {"blocks": (1, 1), "width": 18}},
        ),
        Scale("tiny", ("tiny",), "hours on a CPU", "tiny-unrolled", {"resnet18": {"width": 8}}),
        Scale("small", ("small",), "hours on a CPU", "small-unrolled", {"resnet18": {"width": 24}}),
        Scale("conv-small", ("conv-small",), "hours on a CPU", "conv-small-unrolled", {"resnet18": {"width": 10}}),
        Scale("large", ("large",), "days on a GPU, as published"),
        Scale("xl", ("large", "xl"), "days on several GPUs, as published"),
    )
}


def scale_named(name: str) -> Scale:
    """The scale of that name; raises `InputError` where there is none."""
    return look_up("scale", name, SCALES)
