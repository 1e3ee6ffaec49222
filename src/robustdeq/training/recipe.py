"""A recipe: everything that decides how a model is trained."""

from __future__ import annotations

from dataclasses import dataclass, field

from robustdeq.base.errors import InputError
from robustdeq.data import RandomCropFlip
from robustdeq.deq.cell import Execution
from robustdeq.training.guards import Guard, OverfittingWatch
from robustdeq.training.module import Pretraining, Validation
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
        counts = ("epochs", "max_steps", "batch_size", "accumulate", "validation_images", "validations", "patience")
        for name in (*counts, "checkpoint_every", "log_every"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise InputError(f"{name} is {count}; give 1 or more.")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}; give 0 or a positive number.")


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
        overfitting: the watch for catastrophic overfitting to a fast attack.
        guard: when a run counts as diverged.
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
