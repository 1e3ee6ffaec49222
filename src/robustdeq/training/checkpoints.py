"""Checkpoints that are whole or not there: written beside and moved into place, sealed with a digest, read as data."""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import lightning
import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.callbacks import Checkpoint
from typing_extensions import override

from robustdeq.base.errors import InputError
from robustdeq.base.files import replace_with
from robustdeq.training.guards import DivergenceGuard

_SEAL = b"robustdeq checkpoint, sha-256 "
_NAME = re.compile(r"step=\d+\.ckpt")


class SealedCheckpoints(CheckpointIO):
    """Reads and writes checkpoints that end in the digest of what comes before it."""

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        seal = _SEAL + hashlib.sha256(buffer.getbuffer()).digest()
        buffer.seek(0, io.SEEK_END)
        buffer.write(seal)
        replace_with(Path(path), lambda temporary: temporary.write_bytes(buffer.getbuffer()))

    @override
    def load_checkpoint(
        self, path: _PATH, map_location: Callable | None = lambda storage, _: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """The contents; raises `InputError` where the file is not what was written, or holds more than data."""
        body = _unsealed(Path(path))
        try:
            return torch.load(io.BytesIO(body), map_location=map_location, weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            raise InputError(f"{path} holds something else than tensors and plain values; delete it.") from error

    @override
    def remove_checkpoint(self, path: _PATH) -> None:
        Path(path).unlink(missing_ok=True)


class Checkpoints(Checkpoint):
    """Writes `step=N.ckpt` every so many steps, and keeps the last two.

    A checkpoint is made between two steps; where a validation follows the step, after that, so that a run that goes on
    from there has it behind it. After the last step none is made: what comes then is quickly done again.

    Args:
        folder: where they go.
        every: how many steps pass between them.
        validated: how many steps pass between validations.
        guard: looks at what is about to be written.
    """

    def __init__(self, folder: Path, every: int, validated: int, guard: DivergenceGuard) -> None:
        self._folder = folder
        self._every = every
        self._validated = validated
        self._guard = guard
        self._step = 0
        self._trainer: lightning.Trainer | None = None
        self._interrupted = False

    @contextmanager
    def heeding(self) -> Iterator[None]:
        """Within it an interruption (SIGINT) waits for the end of the step and its validation, and leaves a checkpoint.

        A second one is heeded at once, and so is one during a validation, before the first step or where several
        processes would have to agree.
        """
        usual = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is not threading.main_thread() or not callable(usual):
            yield
            return

        def heed(number: int, frame: FrameType | None) -> None:
            trainer = self._trainer
            if self._interrupted or trainer is None or not trainer.training or trainer.world_size > 1:
                usual(number, frame)
            self._interrupted = True

        signal.signal(signal.SIGINT, heed)
        try:
            yield
        finally:
            self._trainer = None
            signal.signal(signal.SIGINT, usual)

    @override
    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._step = trainer.global_step
        self._trainer = trainer

    @override
    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        validates = self._step % self._validated == 0
        if not validates and (self._interrupted or self._step % self._every == 0):
            self._write(trainer, pl_module)
        if self._interrupted and not validates:
            raise KeyboardInterrupt

    @override
    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self._interrupted or trainer.global_step % self._every == 0:
            self._write(trainer, pl_module)
        if self._interrupted:
            raise KeyboardInterrupt

    def _write(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if trainer.should_stop or trainer.global_step >= trainer.max_steps:
            return
        self._guard.look(trainer, module)
        step = trainer.global_step
        trainer.save_checkpoint(self._folder / f"step={step}.ckpt")
        if trainer.is_global_zero:
            before = [path for number, path in _numbered(self._folder) if number < step]
            beyond = [path for number, path in _numbered(self._folder) if number > step]
            for path in before[1:] + beyond:
                path.unlink()


def newest(folder: Path) -> tuple[Path | None, list[Path]]:
    """The newest checkpoint that is whole, and the newer ones that are not.

    Args:
        folder: where checkpoints named `step=N.ckpt` lie.
    """
    damaged: list[Path] = []
    for _, path in _numbered(folder):
        try:
            _unsealed(path)
        except (InputError, OSError):
            damaged.append(path)
        else:
            return path, damaged
    return None, damaged


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was made."""
    return int(checkpoint.stem.removeprefix("step="))


def _numbered(folder: Path) -> list[tuple[int, Path]]:
    """The checkpoints in a folder with their steps, the newest first."""
    return sorted(((step_of(path), path) for path in folder.glob("*.ckpt") if _NAME.fullmatch(path.name)), reverse=True)


def _unsealed(path: Path) -> bytes:
    """What was sealed in a file; raises `InputError` where the seal is broken."""
    content = path.read_bytes()
    length = len(_SEAL) + hashlib.sha256().digest_size
    body, seal = content[:-length], content[-length:]
    if seal != _SEAL + hashlib.sha256(body).digest():
        raise InputError(f"{path} is damaged or cut short; delete it and resume from the checkpoint before it.")
    return body
