"""What a run leaves behind while it runs: its best weights, its metrics, and word of how far it is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.distributed.fsdp import FullyShardedDataParallel
from typing_extensions import override

from robustdeq.base.files import write_text
from robustdeq.base.progress import Report
from robustdeq.training.batchnorm import apart
from robustdeq.training.metrics import COLUMNS, TRAINED, VALIDATED, line, rows_until
from robustdeq.training.module import Training
from robustdeq.zoo import save
from robustdeq.zoo.factory import Factory

_SHOWN = {
    "clean": "clean {:.0%}",
    "robust": "PGD {:.0%}",
    "loss": "loss {:.2f}",
    "residual": "residual {:.1g}",
    "images_per_second": "{:.3g} images/s",
    "solver_steps": "{:.1f} solver steps",
    "spectral_radius": "spectral radius {:.2f}",
}


@contextmanager
def _whole(module: Training) -> Iterator[None]:
    """Within it the weights are whole on the first process, however they are sharded."""
    wrapped = module.trainer.strategy.model
    if isinstance(wrapped, FullyShardedDataParallel):
        with FullyShardedDataParallel.summon_full_params(wrapped, writeback=False):
            yield
    else:
        yield


class KeepBest(Callback):
    """Keeps the weights with the highest accuracy on the development split, and the history of it.

    Of equally good ones the earliest are kept, and none that are not finite.

    Args:
        path: the weights file.
        aim: which accuracy, `"robust"` or `"clean"`.
        factory: what made the model, where it is none of the zoo.
    """

    def __init__(self, path: Path, aim: str, factory: Factory | None = None) -> None:
        self.path = path
        self.aim = aim
        self.factory = factory
        self.best = -1.0
        self.weights: dict[str, Tensor] = {}
        self.history: list[dict[str, float]] = []

    @override
    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, Training)
        found = _validated(trainer)
        self.history.append({"step": float(trainer.global_step), **found})
        with _whole(pl_module):
            weights = pl_module.model.state_dict()
            if found[self.aim] > self.best and all(bool(tensor.isfinite().all()) for tensor in weights.values()):
                self.best = found[self.aim]
                self.weights = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}
                if trainer.is_global_zero:
                    with apart(pl_module.model):
                        save(pl_module.model, self.path, threat=pl_module.recipe.threat, factory=self.factory)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "weights": self.weights, "history": self.history}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.weights = state_dict["best"], dict(state_dict["weights"])
        self.history = list(state_dict["history"])


class Record(Callback):
    """Writes a table of metrics, a row every so many steps and one per validation, and reports how far the run is.

    What a row says of a step is the mean over its parts and over all processes. A resumed run goes on with the rows of
    its checkpoint, whatever became of the file.

    Args:
        path: the file.
        every: how many steps pass between rows; a row waits for the device.
        report: called with the share of the steps that is done and the latest metrics.
    """

    def __init__(self, path: Path, every: int, report: Report) -> None:
        self._path = path
        self._every = every
        self._report = report
        self._shown: dict[str, float] = {}
        self._parts: list[dict[str, Tensor]] = []
        self._images = self._step = 0
        self._lines: list[str] | None = None
        self._seconds = 0.0
        self._started = self._since = time.perf_counter()

    @property
    def seconds(self) -> float:
        """How long the run has taken, in all its pieces."""
        return self._seconds + time.perf_counter() - self._started

    @override
    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._started = self._since = time.perf_counter()
        self._step = trainer.global_step
        if trainer.is_global_zero:
            if self._lines is None:
                self._lines = [*map(line, rows_until(self._path, trainer.global_step))]
            write_text(self._path, "".join([line(dict(zip(COLUMNS, COLUMNS, strict=True))), *self._lines]))

    @override
    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Lightning shows a metric until it is logged again; a row is to hold what was measured in its own step.
        trainer.fit_loop.epoch_loop._results.reset()  # pyright: ignore[reportPrivateUsage]
        trainer.callback_metrics.clear()

    @override
    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Training)
        step, logged = trainer.global_step, trainer.callback_metrics
        self._images += len(batch[1]) * trainer.world_size
        self._parts.append({name: logged[name].detach() for name in TRAINED if name in logged})
        if step == self._step:
            return
        parts, self._parts, self._step = self._parts, [], step
        if step % self._every == 0:
            measured = {name: torch.stack([part[name] for part in parts]).float().mean() for name in parts[-1]}
            shared = trainer.strategy.reduce(torch.stack(list(measured.values())), reduce_op="mean")
            now = time.perf_counter()
            metrics = dict(zip(measured, shared.tolist(), strict=True))  # pyright: ignore[reportAttributeAccessIssue]
            metrics["images_per_second"] = self._images / (now - self._since)
            metrics["learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
            self._images, self._since = 0, now
            self._write(trainer, metrics)
        total = pl_module.total_steps
        shown = (form.format(self._shown[name]) for name, form in _SHOWN.items() if name in self._shown)
        if trainer.is_global_zero:
            self._report(min(step / total, 1.0), ", ".join([f"step {step}/{total}", *shown]))

    @override
    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._write(trainer, _validated(trainer))
        self._since = time.perf_counter()
        self._images = 0

    def _write(self, trainer: lightning.Trainer, metrics: dict[str, float]) -> None:
        self._shown |= metrics
        if not trainer.is_global_zero:
            return
        row = {"step": trainer.global_step, "seconds": round(self.seconds, 1)}
        written = line(row | {name: f"{value:.6g}" for name, value in metrics.items()})
        assert self._lines is not None
        self._lines.append(written)
        with self._path.open("a", newline="", encoding="utf-8") as file:
            file.write(written)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "lines": self._lines}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._seconds = state_dict["seconds"]
        self._lines = state_dict.get("lines")  # which older versions did not keep


def _validated(trainer: lightning.Trainer) -> dict[str, float]:
    """What a validation measured."""
    return {name: float(trainer.callback_metrics[name]) for name in VALIDATED if name in trainer.callback_metrics}
