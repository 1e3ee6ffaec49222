"""From data to weights on disk: one training run, in one piece or several, on one device or many."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import shutil
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

from robustdeq.base.errors import InputError
from robustdeq.base.files import file_digest, write_text
from robustdeq.base.occupancy import alone_in
from robustdeq.base.plain import read_json
from robustdeq.base.processes import is_first_process, together
from robustdeq.base.progress import Report, silent, told
from robustdeq.base.provenance import ABOVE, code_fingerprint, command_and_versions
from robustdeq.data import Images, Splits
from robustdeq.data.batches import Batches
from robustdeq.deq import DEQ
from robustdeq.deq.gradients import own_gradient
from robustdeq.evaluation import choose_early_state
from robustdeq.training.averaging import Averaging
from robustdeq.training.batchnorm import separated, synchronized
from robustdeq.training.checkpoints import Checkpoints, SealedCheckpoints, newest, step_of
from robustdeq.training.guards import DivergenceGuard, OverfittingGuard
from robustdeq.training.hardware import Hardware
from robustdeq.training.metrics import METRICS
from robustdeq.training.module import Training
from robustdeq.training.recipe import Recipe
from robustdeq.training.record import KeepBest, Record
from robustdeq.zoo import Card, save
from robustdeq.zoo.card import card_of
from robustdeq.zoo.factory import Factory, check_takes
from robustdeq.zoo.registry import as_loaded, read_weights

_log = logging.getLogger(__name__)

_RESULTS = ("training.json", "model.safetensors", "model.md", METRICS)
_SEALED = ("model.safetensors", METRICS)
_DECISIVE = ("recipe", "model", "gradient", "data")
_CHOSEN = 8 * "[a-z0-9_]"
_WRITTEN = ("checkpoints/.step=*.ckpt", ".training.json", ".run.json", f".{METRICS}")
_HALFWAY = (f".model.{_CHOSEN}", *(f"{name}.{_CHOSEN}{Path(name).suffix}" for name in _WRITTEN))
"""What writing leaves behind where it is killed: `tempfile` chooses eight characters."""


def fit(
    model: nn.Module,
    splits: Splits,
    recipe: Recipe,
    folder: str | Path,
    report: Report | None = None,
    resume: bool = False,
    hardware: Hardware | None = None,
    factory: Factory | None = None,
    overwrite: bool = False,
) -> Path:
    """Train a model and write its best weights.

    Args:
        model: a DEQ, with the gradient it is to be trained with, or a network; it ends with the best weights, in eval
            mode.
        splits: the data; the test split is not touched.
        recipe: how it is trained.
        folder: where `model.safetensors` (the best weights on the development split, with the early state chosen
            there) and its card, `training.json` (the recipe, the data and the history), `metrics.csv`, logs for
            TensorBoard and `checkpoints/` go.
        report: called with the share of the work that is done and the latest metrics; by default a progress bar, in a
            terminal or a notebook.
        resume: go on from the newest checkpoint in the folder that is whole; from the start where there is none.
        hardware: where it takes place; by default on one device. On several, torchrun starts the program, and each
            of its processes calls this.
        factory: what made the model, where it is none of the zoo.
        overwrite: replace what another run left in the folder.

    Returns:
        The file with the weights.

    Raises:
        InputError: the data does not fit, the model could not be kept, there are fewer or more processes, one of them
            has stopped, the folder holds another run, files of the names that this would write, a damaged run, or one
            that another process is at, or the training came to nothing.
        KeyboardInterrupt: it was interrupted, at the step it names; its best weights so far and its checkpoints are in
            the folder.
    """
    folder = Path(folder)
    hardware = hardware or Hardware()
    train, development = splits.require("train"), splits.require("development")
    schedule, weights = recipe.schedule, folder / "model.safetensors"
    held_out = development.head(schedule.validation_images)
    card = card_of(model, factory=factory)
    as_loaded(model, card)
    for images in (train, held_out):
        check_takes(model, images)
    hardware.check(recipe)
    if schedule.batch_size > len(train):
        raise InputError(
            f"batch_size is {schedule.batch_size}, and {train.source} has {len(train)} images; give a smaller one."
        )
    share = schedule.batch_size // (hardware.world * schedule.accumulate)
    provenance = _provenance(card, model, recipe, train, held_out)
    if resume and _run_of(folder, provenance) is not None and (folder / "training.json").is_file():
        _check_finished(folder)
        model.load_state_dict(read_weights(weights))
        model.eval()
        _log.info("the run in %s is finished.", folder)
        return weights
    module = Training(model, recipe)
    best = KeepBest(weights, recipe.objective.aim, factory)
    with _quiet(), ExitStack() as stack:
        shown = stack.enter_context(told("training", report if is_first_process() else silent))
        record = Record(folder / METRICS, schedule.log_every, shown)
        trainer, checkpoints = _trainer(recipe, folder, hardware, [best, record], held_out, len(train))
        if is_first_process():
            stack.enter_context(alone_in(folder))
        place: dict[str, Any] = {"device": trainer.strategy.root_device, "rank": trainer.global_rank}
        place["world"] = hardware.world
        used = train if schedule.accumulate == 1 else train.head(len(train) - len(train) % schedule.batch_size)
        batches = Batches(used, share, seed=schedule.seed, augmentation=recipe.augmentation, **place)
        watched = Batches(held_out, min(share, len(held_out)), shuffle=False, **place)
        checkpoint = _begin(folder, provenance, resume, overwrite)
        if resume and trainer.is_global_zero:
            anew = f"nothing to go on from in {folder}; starting anew"
            _log.info("%s.", f"going on from step {step_of(checkpoint)} of {trainer.max_steps}" if checkpoint else anew)
        torch.manual_seed(schedule.seed)
        if hardware.world > 1:
            synchronized(model)
        with together():
            with _interruptible(trainer), checkpoints.heeding():
                trainer.fit(module, batches, watched, ckpt_path=checkpoint, weights_only=True)
            if not best.history or best.history[-1]["step"] < trainer.global_step:
                with _interruptible(trainer):
                    trainer.validate(module, watched, verbose=False)
            if not best.weights:
                raise InputError(
                    "the training diverged: its weights are not finite; lower the learning rate, or clip the gradient."
                )
            model.load_state_dict(best.weights)
            device = module.device
            separated(model).to(device).eval()
            if trainer.is_global_zero:
                machine = f"cpu ({platform.machine()})"
                found = {name: value for name, value in provenance.items() if name != "model"} | {
                    "history": best.history,
                    "best": max(best.history, key=lambda entry: entry[best.aim]) | {"images": len(held_out)},
                    "seconds": round(record.seconds, 1),
                    "images_per_second": round(trainer.global_step * schedule.batch_size / record.seconds, 2),
                    "device": torch.cuda.get_device_name(device) if device.type == "cuda" else machine,
                    "devices": hardware.world,
                }
                early = _early_state(model, recipe, held_out, device)
                save(model, weights, early, found, threat=recipe.threat, factory=factory)
                found["files"] = {name: file_digest(folder / name) for name in _SEALED}
                write_text(folder / "training.json", json.dumps(found | {"seal": _seal(found)}, indent=1) + "\n")
            trainer.strategy.barrier()
    return weights


def _trainer(
    recipe: Recipe, folder: Path, hardware: Hardware, callbacks: list[Callback], held_out: Images, images: int
) -> tuple[lightning.Trainer, Checkpoints]:
    """Lightning's Trainer for a recipe, and what writes its checkpoints."""
    schedule = recipe.schedule
    steps = schedule.epochs * (images // schedule.batch_size)
    steps = min(steps, schedule.max_steps or steps)
    interval = max(-(-steps // schedule.validations), 1)
    guard = DivergenceGuard(recipe.guard)
    guards: list[Callback] = [guard]
    averaging = Averaging(recipe.averaging) if recipe.averaging else None
    if recipe.overfitting.every and recipe.objective.strengthened() != recipe.objective:
        watched = held_out.head(recipe.overfitting.images).tensors()
        guards.append(OverfittingGuard(recipe.overfitting, *watched, averaging))
    if averaging is not None:
        guards.append(averaging)
    if schedule.patience is not None:
        guards.append(EarlyStopping(recipe.objective.aim, mode="max", patience=schedule.patience, check_finite=False))
    checkpoints = Checkpoints(folder / "checkpoints", schedule.checkpoint_every, interval, guard)
    trainer = lightning.Trainer(
        **hardware.trainer_settings(),
        max_epochs=-1,
        max_steps=steps,
        callbacks=[*callbacks, *guards, checkpoints],
        plugins=[SealedCheckpoints()],
        logger=TensorBoardLogger(folder, name="tensorboard", version=""),
        gradient_clip_val=recipe.optimization.clip_norm,
        accumulate_grad_batches=schedule.accumulate,
        val_check_interval=interval * schedule.accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        inference_mode=False,
        log_every_n_steps=schedule.log_every,
        enable_model_summary=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
    )
    return trainer, checkpoints


def _run_of(folder: Path, provenance: dict[str, Any]) -> dict[str, Any] | None:
    """What was noted when the run in a folder began; None where there is none.

    Raises:
        InputError: what is there belongs to another run.
    """
    path = folder / "run.json"
    if not path.is_file():
        strangers = [name for name in _RESULTS if (folder / name).exists()]
        if strangers:
            raise InputError(f"{folder} holds {strangers[0]} but no run that could go on; choose another --output.")
        return None
    try:
        before = dict(read_json(path))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is damaged, so the run cannot go on; choose another --output.") from error
    now = json.loads(json.dumps(provenance))
    changed = [name for name in _DECISIVE if _known(before.get(name)) != _known(now[name])]
    if changed:
        raise InputError(
            f"{folder} holds a run with another {changed[0]}; resume it with the settings it was begun with, or "
            "choose another --output."
        )
    return before


def _check_finished(folder: Path) -> None:
    """Raise `InputError` where a finished run is not what it left; older versions sealed nothing."""
    path = folder / "training.json"
    try:
        found = dict(read_json(path))
        damaged = [name for name, digest in found.get("files", {}).items() if file_digest(folder / name) != digest]
        if "seal" in found and found.pop("seal") != _seal(found):
            damaged.append(path.name)
    except (ValueError, TypeError, AttributeError):
        damaged = [path.name]
    for name in damaged[:1]:
        raise InputError(f"{folder / name} is damaged; put back a copy of it, or train again with --overwrite.")


def _seal(record: dict[str, Any]) -> str:
    """The digest of a record without its seal."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _known(value: Any) -> Any:
    """A setting without what is None in it, which older versions did not write."""
    return {key: part for key, part in value.items() if part is not None} if isinstance(value, dict) else value


def _begin(folder: Path, provenance: dict[str, Any], resume: bool, overwrite: bool) -> Path | None:
    """Make the folder ready for a run; the checkpoint to go on from, where there is one.

    Raises:
        InputError: what is there belongs to another run, or may not be replaced.
    """
    checkpoint = None
    if resume and (before := _run_of(folder, provenance)) is not None:
        if before.get("code") != provenance["code"]:
            _log.warning("%s was begun with other code; it goes on, but may not end where it would have.", folder)
        checkpoint, damaged = newest(folder / "checkpoints")
        for broken in damaged:
            instead = "the checkpoint before it is used" if checkpoint else "the run starts anew"
            _log.warning("%s is damaged or cut short; %s.", broken, instead)
    if is_first_process():
        if checkpoint is None:
            leftovers = _leftovers(folder)
            if not (overwrite or (resume and (folder / "run.json").is_file())):
                _check_free(folder, leftovers)
            for leftover in leftovers:
                leftover.unlink()
            write_text(folder / "run.json", json.dumps(provenance, indent=1) + "\n")
        for halfway in chain.from_iterable(folder.glob(pattern) for pattern in _HALFWAY):
            shutil.rmtree(halfway) if halfway.is_dir() else halfway.unlink()
    return checkpoint


def _leftovers(folder: Path) -> list[Path]:
    """The files of a folder that a run which begins there replaces."""
    results = (path for name in _RESULTS if (path := folder / name).exists())
    return [*results, *(folder / "checkpoints").glob("step=*.ckpt"), *folder.glob("tensorboard/events.*")]


def _check_free(folder: Path, leftovers: list[Path]) -> None:
    """Raise `InputError` where a folder holds a run, or files that one would replace."""
    if (folder / "run.json").exists():
        raise InputError(
            f"{folder} holds another run; choose another folder, or pass resume=True to go on with that run, or "
            "overwrite=True to replace it."
        )
    for path in leftovers[:1]:
        raise InputError(f"{path} exists already; choose another folder, or pass overwrite=True to replace it.")


@contextmanager
def _interruptible(trainer: lightning.Trainer) -> Iterator[None]:
    """Within it an interruption is a KeyboardInterrupt, which Lightning makes an exit and is deaf to from then on."""
    usual = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stop:
        if not trainer.interrupted:
            raise
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, usual)
        raise KeyboardInterrupt(f"at step {trainer.global_step} of {trainer.max_steps}") from stop


def _provenance(card: Card, model: nn.Module, recipe: Recipe, train: Images, held_out: Images) -> dict[str, Any]:
    """Where the weights come from, as plain values."""
    described = asdict(recipe) | {
        "objective": repr(recipe.objective),
        "validation": repr(recipe.validation),
        "augmentation": repr(recipe.augmentation),
    }
    return {
        **command_and_versions(),
        "recipe": described,
        "model": asdict(card),
        "gradient": repr(getattr(model, "gradient", None)),
        "data": {
            "train": train.source,
            "fingerprint": train.fingerprint(),
            "development": held_out.source,
            "development_fingerprint": held_out.fingerprint(),
        },
        "code": code_fingerprint(unrelated=ABOVE),
    }


def _early_state(model: nn.Module, recipe: Recipe, held_out: Images, device: torch.device) -> int | None:
    """The state that resists the attack of the validation best on the development split; None for a network."""
    if not isinstance(model, DEQ):
        return None
    x, y = (tensor.to(device) for tensor in held_out.tensors())
    gradient = recipe.validation.gradient or own_gradient(model)
    return choose_early_state(model, x, y, recipe.validation.attack, gradient, recipe.schedule.batch_size)


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning without its advice: the data is in memory, and the run reports for itself.

    What ends the thread of TensorBoard is raised again where it is next written to, and not told twice.
    """
    loggers = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    tell = threading.excepthook
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    threading.excepthook = lambda failed: None if isinstance(failed.exc_value, OSError) else tell(failed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        try:
            yield
        finally:
            threading.excepthook = tell
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
