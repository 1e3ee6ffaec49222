"""When the paper's number can be trusted: by how much its best attack overrates models, and what foretells that.

The models are variations, one thing at a time, of two base recipes on digits, in three ways of training each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import chain, zip_longest
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from robustdeq.attacks.losses import cross_entropy
from robustdeq.base.provenance import describe
from robustdeq.deq import DEQ
from robustdeq.deq.defenses import FinalState
from robustdeq.deq.gradients import Phantom, StateGradient, ThroughSolver
from robustdeq.deq.modes import evaluating
from robustdeq.evaluation import Paper
from robustdeq.evaluation.agreement import cosine
from robustdeq.study.beyond.overestimate import READINGS, attacked
from robustdeq.study.configurations import ALIGNED, EXACT_8_7, UNROLLED, Configuration
from robustdeq.study.evidence import Evidence
from robustdeq.study.experiment import BEYOND, Experiment
from robustdeq.study.panel import Drawing, Panel, Panels, accuracies, averages
from robustdeq.study.rule_of_thumb import rank_correlation, threshold
from robustdeq.study.scales import Budget, scale_named
from robustdeq.study.study import Study
from robustdeq.training.plan import Plan
from robustdeq.training.regularizers import JacobianRegularization, Regularization
from robustdeq.training.spectrum import spectral_radius

KINDS = {UNROLLED: "phantom", EXACT_8_7: "exact", ALIGNED: "through"}
POINTS = 5.0
_SHORT = Budget(max_steps=150, validation_images=128, validations=1)
_SEEN = READINGS[:-1]


@dataclass(frozen=True)
class Base:
    """What is varied: the recipe of a scale, cut to about a minute, and what a variation of it has instead.

    Args:
        scale: its name.
        budget: what of the schedule is cut short.
        narrow: settings of a model of half the width.
        jacobian: the Jacobian penalty that the recipe does not have.
    """

    scale: str
    budget: Budget
    narrow: Mapping[str, Any]
    jacobian: JacobianRegularization


BASES = (
    Base("conv-digits", _SHORT, {"channels": 8, "hidden": 24}, JacobianRegularization(1.0, frequency=0.2, until=1.0)),
    Base("nano", replace(_SHORT, max_steps=None), {"channels": (8, 8)}, JacobianRegularization(0.0)),
)


@dataclass(frozen=True)
class Variation:
    """A training that differs from its base in one thing.

    Args:
        base: the base.
        way: of training.
        change: what differs, in words; empty for the base itself.
        architecture: the settings of the model that differ.
        gradient: of the weights and adversaries; that of the way by default.
        jacobian: the Jacobian penalty; that of the base by default.
        seed: added to that of the recipe.
    """

    base: Base
    way: Configuration
    change: str = ""
    architecture: Mapping[str, Any] = field(default_factory=dict)
    gradient: StateGradient | None = None
    jacobian: JacobianRegularization | None = None
    seed: int = 0

    @property
    def kind(self) -> str:
        """Its base and the gradient of its training."""
        return f"{self.base.scale}, {KINDS[self.way]}"

    @property
    def title(self) -> str:
        """All that tells it from the others."""
        return ", ".join(filter(None, (self.kind, self.change)))

    def plan(self, budget: Budget) -> Plan:
        """How it is trained, within a budget."""
        scale = scale_named(self.base.scale)
        plan = scale.plan(self.way, scale.sizes[0], self.base.budget, self.seed)
        recipe = replace(plan.recipe, schedule=budget.of(plan.recipe.schedule))
        if self.jacobian is not None:
            recipe = replace(recipe, regularization=Regularization(self.jacobian))
        architecture = {**plan.architecture, **self.architecture}
        return replace(plan, recipe=recipe, architecture=architecture, gradient=self.gradient or plan.gradient)


def variations(base: Base, way: Configuration) -> Iterator[Variation]:
    """A base trained in one way, and all that differs from it in one thing."""
    varied = partial(Variation, base, way)
    yield varied()
    yield from (varied(f"N = {n}", {"max_steps": n}) for n in (4, 12))
    yield varied("half the width", base.narrow)
    yield varied("seed 1", seed=1)
    yield varied(f"Jacobian weight {base.jacobian.weight:g}", jacobian=base.jacobian)
    if way is not EXACT_8_7:
        yield varied("tail of 1 step", {"tail_steps": 1})
    if way is UNROLLED:
        yield from (varied(f"λ = {damping:g}", gradient=Phantom(5, damping)) for damping in (0.25, 1.0))


VARIATIONS = tuple(filter(None, chain(*zip_longest(*(variations(base, way) for way in KINDS for base in BASES)))))
"""Those of all bases and ways in turn, so that the first few are of every kind."""


@dataclass(frozen=True)
class Sign:
    """A number measured on clean images that may foretell the overestimate.

    Args:
        name: in words.
        bad: whether it is the high values (1) or the low ones (-1) that speak against a model.
        logarithmic: whether it spans orders of magnitude.
    """

    name: str
    bad: int
    logarithmic: bool = False


SIGNS = (
    Sign("relative residual of z*", 1, logarithmic=True),
    Sign("spectral radius of ∂f/∂z at z*", 1),
    Sign("cosine of the ready-made gradient and that through the solver", -1),
)


def signs(study: Study, deq: DEQ, title: str) -> Float[np.ndarray, "signs"]:
    """The medians of `SIGNS` over the clean images."""
    ready_made, true = study.estimators.ready_made(deq), ThroughSolver(FinalState())
    found = []
    with evaluating(deq):
        for x, y in study.batches(title):
            loss, solution = partial(cross_entropy, y=y), deq.solution(x)
            with torch.no_grad():
                value = solution.trajectory.best_value
                residual = (value - solution.trajectory.solution).norm(dim=1) / value.norm(dim=1)
            radius = spectral_radius(solution, generator=torch.Generator(x.device).manual_seed(0))
            gradients = (gradient.input_gradient(deq, x, loss)[None] for gradient in (ready_made, true))
            found.append(torch.stack([residual, radius, cosine(*gradients)[0]]))
    return np.nanmedian(torch.cat(found, dim=1).double().cpu().numpy(), axis=1)


def scatter(sign: Sign, x: Float[np.ndarray, "models"], overestimates: Panel, kinds: tuple[str, ...]) -> Panel:
    """The overestimate of each model over one of its signs, with the rule of thumb that they make.

    Args:
        sign: which.
        x: its value for each model.
        overestimates: a row for each model, with its interval.
        kinds: of the models.
    """
    assert overestimates.low is not None
    assert overestimates.high is not None
    y, unknown = overestimates.values[:, 0], np.full(len(x), np.nan)
    rho, low, high = rank_correlation(x, y, kinds)
    finding = f"Spearman's ρ {rho:.2f} ({low:.2f} to {high:.2f}) over {len(x)} models"
    large, line = y > POINTS, ()
    rule = threshold(sign.bad * x, large, kinds)
    if rule is None:
        finding += f"; {large.sum()} of them are overrated by more than {POINTS:g} points, which makes no rule of thumb"
    else:
        at, bad, sides = sign.bad * rule.at, rule.above, ("above", "below")[:: sign.bad]
        counts = [f"in {large[side].sum()} of {side.sum()} models" for side in (bad, ~bad)]
        finding = (
            f"{sides[0]} a {sign.name} of {at:.2g}, the paper's best attack overrates by more than {POINTS:g} points "
            f"{counts[0]}, {sides[1]} it {counts[1]} (balanced accuracy {rule.accuracy:.2f}, "
            f"{rule.left_out:.2f} on kinds of models left out); {finding}"
        )
        ends = (x.max(), x.min())[:: sign.bad]
        level, other = y[bad].mean(), y[~bad].mean()
        line = tuple((float(a), float(b)) for a, b in ((ends[0], level), (at, level), (at, other), (ends[1], other)))
    return Panel(
        f"overestimate against the {sign.name}",
        "",
        overestimates.rows,
        (sign.name, "overestimate, points"),
        np.stack([x, y], axis=1),
        row_axis="Model",
        low=np.stack([unknown, overestimates.low[:, 0]], axis=1),
        high=np.stack([unknown, overestimates.high[:, 0]], axis=1),
        drawing=Drawing.SCATTER,
        logarithmic=sign.logarithmic,
        groups=kinds,
        line=line,
        finding=finding,
    )


def measured(
    study: Study, variation: Variation, protocol: Paper, title: str
) -> tuple[Bool[np.ndarray, "readings samples"], Float[np.ndarray, "signs"]]:
    """The readings of a variation and its signs; a model of which both are kept is not even trained again.

    Args:
        study: where it is trained and measured.
        variation: how.
        protocol: the attacks.
        title: what is shown meanwhile.
    """
    plan = variation.plan(study.budget)
    name = f"{variation.base.scale}-{variation.way.name}"
    settled = {"plan": describe(plan), "effort": None, "protocol": describe(protocol)}
    evidence = Evidence.of(study, "when", name, **settled)
    known_as = f"{variation.base.scale} {variation.way.name} {variation.change}".strip()
    deq = cache(lambda: evidence.study.planned(plan, variation.way, known_as).deq)
    shape = len(_SEEN), len(study.images)
    outcomes = evidence.once("outcomes", shape, lambda: attacked(study, deq(), protocol, title)[: len(_SEEN)])
    found = evidence.once("signs", (len(SIGNS),), lambda: signs(study, deq(), title))
    study.used.update(evidence.study.used)
    return outcomes, found


def _measure(study: Study) -> Panels:
    chosen = VARIATIONS[: study.effort.models]
    protocol = Paper(study.attack, replace(study.estimators, steps=(1,), dampings=(1.0,)))
    found = [
        measured(study, variation, protocol, f"model {i} of {len(chosen)}: {variation.title}")
        for i, variation in enumerate(chosen, 1)
    ]
    stood, foretelling = map(np.stack, zip(*found, strict=True))
    titles, kinds = zip(*((variation.title, variation.kind) for variation in chosen), strict=True)
    overrated = 100.0 * (stood[:, 2:3].astype(float) - stood[:, 3:4])
    overestimates = averages("", "points", titles, ("",), overrated)
    for sign, x in zip(SIGNS, foretelling.T, strict=True):
        yield scatter(sign, x, overestimates, kinds)
    title = f"accuracy of the final state, PGD-{study.attack.steps}"
    yield accuracies(title, titles, _SEEN, stood, row_axis="Model")


WHEN = Experiment(
    "when",
    BEYOND,
    "When the paper's number can be trusted",
    (*KINDS,),
    _measure,
    legend="The overestimate is the accuracy under the paper's best attack, the weakest of its six columns on these "
    "images, less that through the solver. Of unrolled intermediates one step without damping is searched. Residual, "
    "spectral radius and cosine are medians over the clean images. Each model differs from its base in one thing.",
    trains=True,
    scales=tuple(base.scale for base in BASES),
)
