"""A recipe: everything that decides how a model is trained, as settings that refuse bad values."""

from __future__ import annotations

from dataclasses import dataclass, field

from robustdeq.attacks import PGD
from robustdeq.base.errors import InputError, check_seed, require
from robustdeq.base.threat import ThreatModel
from robustdeq.data import RandomCropFlip
from robustdeq.deq.cell import Execution
from robustdeq.deq.gradients import Gradient
from robustdeq.training.objectives import AdversarialTraining, Objective
from robustdeq.training.regularizers import Regularization
from robustdeq.training.schedules import Optimization, SolverSteps


@dataclass(frozen=True)
class Schedule:
    """How long and on what.

    Args:
        epochs: passes over the training set.
        max_steps: stop after so many steps, whatever the epochs; None for no such limit.
        batch_size: images per step, over all devices.
        accumulate: a step's batch is worked off in so many parts.
        validation_images: how many images of the development split are attacked in a validation.
        validations: how many validations the training holds, evenly spaced; the last step is followed by one.
        patience: stop after so many validations without a better accuracy (robust; clean in standard training); None to
            go on.
        checkpoint_every: how many steps pass between checkpoints, from which a run can go on.
        log_every: how many steps pass between rows of the metrics.
        seed: of the order of the images and everything else that is random.

    Raises:
        InputError: a count is not positive.
    """

    epochs: int = 220
    max_steps: int | None = None
    batch_size: int = 96
    accumulate: int = 1
    validation_images: int = 256
    validations: int = 20
    patience: int | None = None
    checkpoint_every: int = 100
    log_every: int = 10
    seed: int = 42

    def __post_init__(self) -> None:
        for name, count in vars(self).items():
            require(count is None or count >= 1 or name == "seed", f"{name} is {count}; give 1 or more.")
        check_seed(self.seed)


@dataclass(frozen=True)
class Validation:
    """What is measured on the development split: clean accuracy, and accuracy under the ready-made attack.

    Args:
        attack: the attack.
        gradient: what it climbs; None for the gradient that the weights are trained with (`own_gradient`). An explicit
            network is differentiated by autograd.
    """

    attack: PGD = field(default_factory=PGD)
    gradient: Gradient | None = None


@dataclass(frozen=True)
class Pretraining:
    """At first the cell is unrolled, z_{n+1} = f(z_n) from z_0, and autograd runs through all of it (Bai et al., 2020).

    Nothing is added to the loss meanwhile.

    Args:
        steps: how many steps of the optimiser; 0 for none.
        layers: how often f is applied.
        adversarial: train on the objective's images already; clean ones otherwise, as published.

    Raises:
        InputError: a setting is out of its range.
    """

    steps: int = 0
    layers: int = 8
    adversarial: bool = False

    def __post_init__(self) -> None:
        if self.steps < 0 or self.layers < 1:
            raise InputError(
                f"pretraining has {self.steps} steps of {self.layers} layers; give 0 or more steps, 1 or more layers."
            )


@dataclass(frozen=True)
class Guard:
    """When a run counts as diverged, which ends it.

    Args:
        every: how many steps pass between looks; a look waits for the device.
        diverged: the share of the samples since the last look whose solve may have diverged.

    Raises:
        InputError: a setting is out of its range.
    """

    every: int = 20
    diverged: float = 0.1

    def __post_init__(self) -> None:
        require(self.every >= 1, f"every is {self.every}; give how many steps pass between looks, 1 or more.")
        require(0 < self.diverged <= 1, f"diverged is {self.diverged}; give a share of the samples, in (0, 1].")


@dataclass(frozen=True)
class OverfittingWatch:
    """Detects catastrophic overfitting to a fast attack (Wong, Rice and Kolter, ICLR 2020).

    The model then resists the one-step attack it is trained with and no other: its accuracy under PGD on held-out
    images collapses within a few steps. The run goes back to where it was last well, and its attack gets a step more.

    Args:
        every: how many steps pass between looks; 0 for none.
        images: held-out images that are attacked.
        attack: the attack.
        drop: by how much their accuracy may fall below its best.

    Raises:
        InputError: a setting is out of its range.
    """

    every: int = 0
    images: int = 64
    attack: PGD = PGD(steps=5, step_size=4 / 255)  # noqa: RUF009
    drop: float = 0.15

    def __post_init__(self) -> None:
        if self.every < 0 or self.images < 1:
            raise InputError(
                f"every is {self.every} and images {self.images}; give 0 (no looks) or more, and 1 or more."
            )
        require(0 < self.drop <= 1, f"drop is {self.drop}; give a difference of accuracies, in (0, 1].")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how a model is trained.

    Args:
        objective: which images the loss is taken on, and the loss.
        optimization: the optimiser.
        schedule: how long and on what.
        regularization: what is added to the loss of a DEQ.
        augmentation: of the training batches; None for none.
        validation: what is measured on the development split.
        solver_steps: of the phases of the training.
        pretraining: the phase in which the cell is unrolled.
        execution: how the model is evaluated in a training step.
        averaging: the decay of the moving average of the weights, which is what is kept; 0 for none.
        overfitting: the watch for catastrophic overfitting to a fast attack, where the objective attacks.
        guard: when a run counts as diverged.

    Raises:
        InputError: overfitting is watched, and the attack of the objective cannot be strengthened.
    """

    objective: Objective = field(default_factory=AdversarialTraining)
    optimization: Optimization = field(default_factory=Optimization)
    schedule: Schedule = field(default_factory=Schedule)
    regularization: Regularization = field(default_factory=Regularization)
    augmentation: RandomCropFlip | None = field(default_factory=RandomCropFlip)
    validation: Validation = field(default_factory=Validation)
    solver_steps: SolverSteps = field(default_factory=SolverSteps)
    pretraining: Pretraining = field(default_factory=Pretraining)
    execution: Execution = field(default_factory=Execution)
    averaging: float = 0.0
    overfitting: OverfittingWatch = field(default_factory=OverfittingWatch)
    guard: Guard = field(default_factory=Guard)

    def __post_init__(self) -> None:
        if self.overfitting.every:
            self.objective.strengthened()

    @property
    def threat(self) -> ThreatModel:
        """The threat model that it trains against, or where it attacks nothing, that of its validation."""
        return self.objective.threat or self.validation.attack.threat
