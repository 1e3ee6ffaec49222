"""From data to weights on disk: one training run, its progress bar, its record and its best weights."""

from __future__ import annotations

import json
import logging
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from robustdeq.data import Images, RandomCropFlip, Splits, as_batch
from robustdeq.errors import InputError
from robustdeq.evaluation import choose_early_state
from robustdeq.files import write_text
from robustdeq.models import MDEQ, load, save
from robustdeq.progress import Report
from robustdeq.training.module import DEQTraining, Optimization, Validation
from robustdeq.training.objectives import Objective, Standard
from robustdeq.training.regularizers import JacobianRegularization


@dataclass(frozen=True)
class Schedule:
    """How long and on what.

    Args:
        epochs: passes over the training set.
        max_steps: stop after so many steps, whatever the epochs; None for no such limit.
        batch_size: images per step.
        validation_images: how many images of the development split are attacked in a validation.
        validate_every: how many epochs pass between validations; the last epoch ends with one.
        seed: of the order of the images and everything else that is random.

    Raises:
        InputError: a count is not positive.
    """

    epochs: int = 220
    max_steps: int | None = None
    batch_size: int = 96
    validation_images: int = 256
    validate_every: int = 1
    seed: int = 42

    def __post_init__(self) -> None:
        for name in ("epochs", "max_steps", "batch_size", "validation_images", "validate_every"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise InputError(f"{name} is {count}; give 1 or more.")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}; give 0 or a positive number.")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how a model is trained.

    Args:
        objective: which images the loss is taken on.
        optimization: the optimiser.
        schedule: how long and on what.
        regularization: the Jacobian penalty.
        augmentation: of the training batches; None for none.
        validation: what is measured on the development split.
    """

    objective: Objective = field(default_factory=Standard)
    optimization: Optimization = field(default_factory=Optimization)
    schedule: Schedule = field(default_factory=Schedule)
    regularization: JacobianRegularization = field(default_factory=JacobianRegularization)
    augmentation: RandomCropFlip | None = field(default_factory=RandomCropFlip)
    validation: Validation = field(default_factory=Validation)


class _KeepBest(Callback):
    """Keeps the weights with the highest robust accuracy on the development split, and the history of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.best = -1.0
        self.history: list[dict[str, float]] = []

    @override
    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, DEQTraining) and isinstance(pl_module.deq, MDEQ)
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        self.history.append({"step": float(trainer.global_step), **metrics})
        usable = all(bool(tensor.isfinite().all()) for tensor in pl_module.deq.state_dict().values())
        if usable and metrics["robust"] > self.best:
            self.best = metrics["robust"]
            save(pl_module.deq, self.path)


class _ReportProgress(Callback):
    """Reports the share of all steps that is done, with the latest metrics."""

    def __init__(self, report: Report) -> None:
        self._report = report

    @override
    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        shown = {key: float(value) for key, value in trainer.progress_bar_metrics.items()}
        total = max(int(trainer.estimated_stepping_batches), 1)
        what = " ".join(f"{key} {value:.2f}" for key, value in shown.items() if key != "v_num")
        self._report(trainer.global_step / total, f"step {trainer.global_step}/{total} {what}")


def fit(deq: MDEQ, splits: Splits, recipe: Recipe, folder: Path, report: Report | None = None) -> Path:
    """Train a model and write its best weights.

    Args:
        deq: the model, with the gradient it is to be trained with; it ends with the best weights, in eval mode.
        splits: the data; the test split is not touched.
        recipe: how it is trained.
        folder: where `model.safetensors` (the best weights on the development split, with the early state chosen
            there), `training.json` (the recipe, the data and the history), `metrics.csv` and `checkpoints/` go.
        report: called with the share of the work that is done and the latest metrics.

    Returns:
        The file with the weights.

    Raises:
        InputError: the data has no training or no development split, or the training came to nothing.
        KeyboardInterrupt: it was interrupted; the best weights so far are in the folder.
    """
    train, development = splits.require("train"), splits.require("development")
    schedule, validation = recipe.schedule, recipe.validation
    held_out = development.head(schedule.validation_images)
    weights = folder / "model.safetensors"
    weights.unlink(missing_ok=True)
    best = _KeepBest(weights)
    lightning.seed_everything(schedule.seed, workers=True, verbose=False)
    module = DEQTraining(
        deq,
        recipe.objective,
        recipe.optimization,
        recipe.regularization,
        recipe.augmentation,
        validation,
        schedule.seed,
    )
    with _quiet():
        trainer = lightning.Trainer(
            accelerator="auto",
            devices=1,
            max_epochs=schedule.epochs,
            max_steps=-1 if schedule.max_steps is None else schedule.max_steps,
            callbacks=[
                ModelCheckpoint(folder / "checkpoints", filename="last", enable_version_counter=False),
                best,
                _ReportProgress(report or (lambda share, what: None)),
            ],
            logger=CSVLogger(folder, name="", version=""),
            gradient_clip_val=recipe.optimization.clip_norm,
            check_val_every_n_epoch=schedule.validate_every,
            num_sanity_val_steps=0,
            inference_mode=False,
            log_every_n_steps=1,
            enable_model_summary=False,
            enable_progress_bar=False,
        )
        watched = _loader(held_out, schedule, shuffle=False)
        try:
            trainer.fit(module, _loader(train, schedule, shuffle=True), watched)
        except SystemExit as stop:
            if trainer.interrupted:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                raise KeyboardInterrupt from stop
            raise
        if not best.history or best.history[-1]["step"] < trainer.global_step:
            trainer.validate(module, watched, verbose=False)
    if not weights.is_file():
        raise InputError(
            "the training diverged: its weights are not finite; lower the learning rate, or clip the gradient."
        )
    deq.load_state_dict(load(weights).state_dict())
    deq.to(module.device).eval()
    x, y = (tensor.to(module.device) for tensor in held_out.tensors())
    early = choose_early_state(deq, x, y, validation.attack, validation.gradient, schedule.batch_size)
    provenance = {
        "recipe": asdict(recipe) | {"objective": repr(recipe.objective), "validation": repr(validation)},
        "gradient": repr(deq.gradient),
        "data": {"train": train.source, "fingerprint": train.fingerprint(), "development": held_out.source},
        "history": best.history,
        "device": str(module.device),
        "torch": torch.__version__,
    }
    save(deq, weights, early=early, provenance=provenance)
    write_text(folder / "training.json", json.dumps(provenance, indent=1) + "\n")
    return weights


def _loader(images: Images, schedule: Schedule, shuffle: bool) -> DataLoader[Any]:
    size = min(schedule.batch_size, len(images))
    dataset = cast(Dataset[Any], images)
    return DataLoader(dataset, size, shuffle=shuffle, drop_last=shuffle, collate_fn=as_batch)


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning without its advice: the data is in memory, and the run reports for itself."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        try:
            yield
        finally:
            logger.setLevel(level)
