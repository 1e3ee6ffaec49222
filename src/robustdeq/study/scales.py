"""Scales: the paper's experiments at other sizes, on other images and in other times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from robustdeq.attacks import PGD
from robustdeq.base.errors import InputError
from robustdeq.study.configurations import NETWORKS, Configuration
from robustdeq.training import AdversarialTraining, Optimization, Recipe, Schedule, Validation
from robustdeq.training.plan import Plan, read_plan

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
        sizes: of the MDEQs in the place of the paper's DEQ-Large and DEQ-XL; where the second is missing, so are its
            rows.
        time: about how long one training takes, and on what.
        attack: PGD and the threat model of all evaluations.
        data: the images, unless others are given.
        recipe: what replaces the published recipe, but for its objective and its penalties; None for the published one.
        adversaries: the attack and its warm-up in adversarial training, where the recipe is replaced.
        networks: what of the explicit networks differs from ResNet-18 and WRN-34-10.
    """

    name: str
    sizes: tuple[str, ...]
    time: str
    attack: PGD = field(default_factory=PGD)
    data: str = "cifar10"
    recipe: Recipe | None = None
    adversaries: AdversarialTraining = field(default_factory=AdversarialTraining)
    networks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def plan(self, configuration: Configuration, size: str, budget: Budget | None = None, seed: int = 0) -> Plan:
        """How a configuration is trained at this scale.

        Args:
            configuration: the way of training.
            size: of the MDEQ; an explicit network has its own.
            budget: what of the schedule is cut short.
            seed: added to the seed of the recipe.
        """
        plan = read_plan(configuration.recipe)
        if configuration in NETWORKS:
            plan = replace(plan, architecture=self.networks.get(configuration.name, {}))
        else:
            plan = replace(plan, model=size, architecture=_PUBLISHED_SOLVE | dict(plan.architecture))
        recipe = plan.recipe if self.recipe is None else self._adapted(self.recipe, plan.recipe)
        schedule = replace((budget or Budget()).of(recipe.schedule), seed=recipe.schedule.seed + seed)
        return replace(plan, recipe=replace(recipe, schedule=schedule))

    def _adapted(self, ours: Recipe, published: Recipe) -> Recipe:
        objective = published.objective.attacking(self.adversaries.attack, self.adversaries.warmup)
        return replace(ours, objective=objective, regularization=published.regularization)


_DIGITS = PGD(eps=0.25, step_size=0.25 / 4, steps=10)
_PIXELS = PGD()

NANO = Scale(
    name="nano",
    sizes=("nano", "tiny"),
    time="minutes on a CPU",
    attack=_DIGITS,
    data="digits",
    recipe=Recipe(
        optimization=Optimization(learning_rate=1e-2, final_learning_rate=1e-4, warmup=0.25, clip_norm=1.0),
        schedule=Schedule(epochs=15, batch_size=32, validation_images=200, validations=5, seed=0),
        augmentation=None,
        validation=Validation(attack=_DIGITS),
    ),
    adversaries=AdversarialTraining(replace(_DIGITS, step_size=0.125, steps=3), warmup=0.3),
    networks={"resnet18": {"blocks": (1, 1), "width": 12}, "wrn34-10": {"depth": 10, "widening": 1}},
)

_FAST = AdversarialTraining(replace(_PIXELS, step_size=1.25 * _PIXELS.eps, steps=1), warmup=0.1)
_CPU = Recipe(
    optimization=Optimization(3e-3, 1e-5, warmup=0.15, weight_decay=1e-4, clip_norm=1.0),
    schedule=Schedule(max_steps=1500, batch_size=64, validation_images=128, validations=5, checkpoint_every=50),
    averaging=0.998,
)

SCALES = {
    scale.name: scale
    for scale in (
        NANO,
        Scale(
            "tiny", ("tiny",), "hours on a CPU", recipe=_CPU, adversaries=_FAST, networks={"resnet18": {"width": 12}}
        ),
        Scale(
            "small", ("small",), "hours on a CPU", recipe=_CPU, adversaries=_FAST, networks={"resnet18": {"width": 24}}
        ),
        Scale("large", ("large",), "days on a GPU, as published"),
        Scale("xl", ("large", "xl"), "days on several GPUs, as published"),
    )
}


def scale_named(name: str) -> Scale:
    """The scale of that name; raises `InputError` where there is none."""
    if name not in SCALES:
        raise InputError(f"there is no scale {name!r}; choose one of {', '.join(SCALES)}.")
    return SCALES[name]
