"""A study: what all experiments of one run share, and where their models and measurements come from.

Models are loaded, or trained where they are missing; measurements are kept attack by attack and batch by batch. Both go
on where they were interrupted, and what two experiments need is made once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustdeq.attacks import APGD, PGD, Cascade, Component, Square, TargetedAPGD, TargetedFAB
from robustdeq.base.errors import InputError, check_counts, look_up
from robustdeq.base.progress import Report, silent
from robustdeq.base.provenance import describe, digest
from robustdeq.data import Images, Splits
from robustdeq.deq import DEQ
from robustdeq.deq.defenses import Defense, EarlyState, EnsembleState, FinalState, StateDefense
from robustdeq.deq.gradients import Gradient, StateGradient, own_gradient
from robustdeq.evaluation import Chosen, Estimators, GridResult, Protocol, Strict, choose_early_state
from robustdeq.evaluation.measure import finish, plan
from robustdeq.evaluation.store import seconds_spent
from robustdeq.study.configurations import Configuration
from robustdeq.study.scales import Budget, Scale
from robustdeq.training.metrics import METRICS, seconds_trained
from robustdeq.training.plan import Plan
from robustdeq.zoo import load
from robustdeq.zoo.card import fingerprint
from robustdeq.zoo.factory import check_takes
from robustdeq.zoo.registry import read_card

_CHOSEN_ON = 256

Progress = Callable[[str], AbstractContextManager[Report]]


def _silent(title: str) -> AbstractContextManager[Report]:
    return nullcontext(silent)


@dataclass(frozen=True)
class Effort:
    """How hard the attacks try; the defaults are the paper's.

    Args:
        steps: of PGD.
        long_steps: of the long PGD run (Table 1).
        apgd_steps: of each run of APGD and FAB in AutoAttack.
        targets: how many classes the targeted attacks of AutoAttack try.
        queries: of Square, alone and in AutoAttack.
        repetitions: how often what is timed is done; the range of six holds the median with 97 %.
        models: the most trainings that one experiment compares.

    Raises:
        InputError: a count is not positive.
    """

    steps: int = 10
    long_steps: int = 1000
    apgd_steps: int = 100
    targets: int = 9
    queries: int = 5000
    repetitions: int = 6
    models: int = 50

    def __post_init__(self) -> None:
        check_counts(**asdict(self))

    def autoattack(self, attack: PGD) -> Cascade:
        """The standard AutoAttack in the threat model of an attack."""
        within, steps, targets = (attack.eps, attack.norm, attack.seed, attack.bounds), self.apgd_steps, self.targets
        components: tuple[Component, ...] = (
            APGD(*within, steps=steps),
            TargetedAPGD(*within, targets=targets, steps=steps),
            TargetedFAB(*within, targets=targets, steps=steps),
            Square(*within, queries=self.queries),
        )
        return Cascade(components, attack.seed)


@dataclass(frozen=True)
class Trained:
    """A model, and what is known of it.

    Attributes:
        model: in eval mode.
        early: the n of its early state; None for an explicit network.
        metrics: the course of its training; None where its weights were given.
        fingerprint: of the weights.
    """

    model: nn.Module
    early: int | None
    metrics: Path | None
    fingerprint: str

    @property
    def deq(self) -> DEQ:
        """The model, as the DEQ that it is; raises `InputError` where it is none."""
        if not isinstance(self.model, DEQ):
            raise InputError(f"the weights hold a {type(self.model).__name__}; give those of an MDEQ.")
        return self.model

    @property
    def defenses(self) -> dict[str, StateDefense]:
        """The paper's defenses of a DEQ: the rows of Tables 2, 3 and 6."""
        assert self.early is not None
        return {"final": FinalState(), "early": EarlyState(self.early), "ensemble": EnsembleState()}

    @property
    def states(self) -> dict[str, StateDefense]:
        """Every state z_1 … z_{N+1} as a defense."""
        return {f"z_{n}": EarlyState(n) for n in range(1, self.deq.last_state + 1)}


@dataclass(frozen=True)
class Study:
    """What all experiments of one run share.

    Args:
        scale: the size of everything.
        splits: the data that models are trained on.
        images: the images that are attacked.
        folder: where models and measurements are kept.
        weights: weights that are used instead of training, by the name of the configuration: NAME, NAME-SEED for
            another seed than the first, SIZE-NAME for one size alone.
        budget: what of each training's schedule is cut short.
        estimators: the settings of the estimated gradients.
        strict: how hard the strict protocol tries.
        effort: how hard the other costly attacks try.
        seeds: how many trainings of each kind are compared, where that is asked.
        ways: the ways of training that `overestimate` and `gradient-or-loss` compare, by name; all where empty.
        trust: whether the code may run that makes the models of weights that others wrote.
        batch_size: how many images are attacked at once.
        device: where everything is computed.
        adversaries: whether those of each measurement are kept beside its outcomes.
        progress: makes, for each training or measurement, something that shows how far it is.
        used: the fingerprints of the models that were asked for, by name; `trained` and `planned` note them.
        kept: the seconds that went, before this run, into each folder of a training or measurement that it uses.

    Raises:
        InputError: a count is not positive, or the images do not fit the threat model.
    """

    scale: Scale
    splits: Splits
    images: Images
    folder: Path
    weights: Mapping[str, str] = field(default_factory=dict)
    budget: Budget = field(default_factory=Budget)
    estimators: Estimators = field(default_factory=Estimators)
    strict: Strict = field(default_factory=Strict)
    effort: Effort = field(default_factory=Effort)
    seeds: int = 2
    ways: tuple[str, ...] = ()
    trust: bool = False
    batch_size: int = 64
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    adversaries: bool = False
    progress: Progress = _silent
    used: dict[str, str] = field(default_factory=dict)
    kept: dict[Path, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_counts(seeds=self.seeds, batch_size=self.batch_size)
        self.attack.threat.check(*self.images.head(1).tensors())

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the outcome of an experiment and is known beforehand, as plain values."""
        return {
            "scale": self.scale.name,
            "weights": dict(self.weights),
            "trained_on": None if self.splits.train is None else self.splits.train.source,
            "data": self.images.source,
            "images": len(self.images),
            "fingerprint": self.images.fingerprint(),
            "attack": describe(self.attack),
            "estimators": describe(self.estimators),
            "strict": describe(self.strict),
            "effort": describe(self.effort),
            "seeds": self.seeds,
            "ways": list(self.ways) or None,
            "factory": None if self.scale.factory is None else asdict(self.scale.factory),
            "budget": asdict(self.budget),
        }

    @property
    def attack(self) -> PGD:
        """PGD in the threat model of the scale."""
        return replace(self.scale.attack, steps=self.effort.steps)

    @property
    def size(self) -> str:
        """The size in the place of the paper's DEQ-Large."""
        return self.scale.sizes[0]

    def compared(self, ways: Sequence[Configuration]) -> tuple[Configuration, ...]:
        """Those of some ways of training that are compared; raises `InputError` where `ways` names none of them."""
        known = {way.name: way for way in ways}
        return tuple(look_up("way of training", name, known) for name in self.ways or known)

    def tensors(self) -> tuple[Tensor, Tensor]:
        """The images that are attacked and their labels, on the device."""
        x, y = self.images.tensors()
        return x.to(self.device), y.to(self.device)

    def batches(self, title: str) -> Iterator[tuple[Tensor, Tensor]]:
        """The images and their labels batch by batch, on the device; it is shown how many are done."""
        parts = [*zip(*(tensor.split(self.batch_size) for tensor in self.tensors()), strict=True)]
        with self.progress(title) as report:
            for done, (x, y) in enumerate(parts):
                report(done / len(parts), f"batch {done + 1} of {len(parts)}")
                yield x, y
            report(1.0, "done")

    def trained(self, configuration: Configuration, size: str | None = None, seed: int = 0) -> Trained:
        """A model trained in some way: the weights that were given, or else a training, which may go on from before.

        Args:
            configuration: the way of training.
            size: of the MDEQ; that in the place of the paper's DEQ-Large by default.
            seed: added to that of the recipe.

        Raises:
            InputError: the weights cannot be read or do not fit the images, or the training came to nothing.
        """
        size = self.size if size is None else size
        name = f"{configuration.name}-{seed}" if seed else configuration.name
        given = self.weights.get(f"{size}-{name}", self.weights.get(name))
        training = self.scale.plan(configuration, size, self.budget, seed)
        known_as = " ".join([size, configuration.name, *[f"seed {seed}"] * (seed > 0)])
        if given is None:
            return self.planned(training, configuration, known_as)
        return self._noted(known_as, self._given(given, training.gradient))

    def planned(self, training: Plan, configuration: Configuration, known_as: str) -> Trained:
        """The model that a plan makes, whose training may go on from before.

        Args:
            training: the plan.
            configuration: the way of training it starts from, after which its folder is named.
            known_as: the name under which its fingerprint is noted.

        Raises:
            InputError: the training came to nothing.
        """
        from robustdeq.training import fit

        train = self.splits.require("train")
        named = digest([describe(training), train.fingerprint()])
        kind = training.model if training.factory is None else training.factory.name
        folder = self.folder / "trained" / f"{kind}-{configuration.name}-{named}"
        self.kept.setdefault(folder, seconds_trained(folder))
        torch.manual_seed(training.recipe.schedule.seed)
        model = training.build(train).to(self.device)
        with self.progress(f"training {training.model} {configuration.name}") as report:
            weights = fit(model, self.splits, training.recipe, folder, report, resume=True, factory=training.factory)
        model.to(self.device)
        found = Trained(model, read_card(weights).early, folder / METRICS, fingerprint(model))
        return self._noted(known_as, found)

    def _noted(self, known_as: str, found: Trained) -> Trained:
        self.used[known_as] = found.fingerprint
        return found

    def _given(self, weights: str, gradient: StateGradient) -> Trained:
        model, early = load(weights, self.trust).to(self.device), read_card(weights).early
        check_takes(model, self.images, weights)
        if isinstance(model, DEQ):
            model = model.with_settings(gradient=gradient)
        if early is None and isinstance(model, DEQ):
            x, y = self.splits.require("development").head(_CHOSEN_ON).tensors()
            x, y = x.to(self.device), y.to(self.device)
            early = choose_early_state(model, x, y, self.attack, own_gradient(model), self.batch_size)
        return Trained(model, early, None, fingerprint(model))

    def measure(
        self,
        title: str,
        model: nn.Module,
        protocol: Protocol,
        defenses: Mapping[str, Defense] | None = None,
        gradients: Mapping[str, Gradient] | None = None,
    ) -> GridResult:
        """Measure a model on the images, or do what is left of it.

        Args:
            title: what is shown while it is measured.
            model: the model.
            protocol: the attacks.
            defenses: the rows; those of the protocol by default.
            gradients: further gradients that are climbed, a column each.
        """
        x, y = self.tensors()
        job = plan(model, x, y, protocol, defenses, gradients, batch_size=self.batch_size)
        folder = self.folder / "measured" / digest(job.manifest())
        self.kept.setdefault(folder, seconds_spent(folder))
        with self.progress(title) as report:
            return finish(job, folder, adversaries=self.adversaries, report=report)

    def climbed(
        self, title: str, deq: DEQ, defenses: Mapping[str, Defense], gradients: Mapping[str, Gradient]
    ) -> GridResult:
        """The outcome of every sample under PGD on each of these gradients, read through some defenses."""
        return self.measure(title, deq, Chosen(self.attack), defenses, gradients)
