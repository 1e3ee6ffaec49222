"""Where a run takes place: which devices, how many, and how they share the work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from robustdeq.base.errors import InputError, check_choice, require
from robustdeq.base.processes import check_devices, check_world
from robustdeq.training.recipe import Recipe


@dataclass(frozen=True)
class Hardware:
    """Where a run takes place; the training is the same wherever.

    Args:
        device: `"cpu"`, `"cuda"` or `"auto"`.
        devices: how many on each machine, a process each, which torchrun starts.
        nodes: how many machines.
        strategy: `"auto"` (one device, or data-parallel), `"ddp"` or `"fsdp"` (the weights sharded; needs CUDA).

    Raises:
        InputError: a setting is out of its range, or the machine has not so many devices.
    """

    device: str = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"

    def __post_init__(self) -> None:
        check_choice("device", self.device, ("auto", "cpu", "cuda"))
        check_choice("strategy", self.strategy, ("auto", "ddp", "fsdp"))
        check_devices(self.kind, self.devices, self.nodes)
        require(self.strategy != "fsdp" or self.kind == "cuda", "the strategy fsdp needs CUDA; choose ddp.")

    @property
    def kind(self) -> str:
        """`"cpu"` or `"cuda"`."""
        available = "cuda" if torch.cuda.is_available() else "cpu"
        return available if self.device == "auto" else self.device

    @property
    def world(self) -> int:
        """How many processes there are."""
        return self.devices * self.nodes

    def check(self, recipe: Recipe) -> None:
        """Raise `InputError` where a recipe cannot be followed here, or the processes are not there."""
        schedule = recipe.schedule
        if schedule.batch_size % (self.world * schedule.accumulate):
            raise InputError(
                f"a batch of {schedule.batch_size} images cannot be shared by {self.world} processes in "
                f"{schedule.accumulate} parts each; make it a multiple of {self.world * schedule.accumulate}."
            )
        if self.strategy == "fsdp" and (recipe.averaging or recipe.overfitting.every):
            raise InputError(
                "sharded weights can be neither averaged nor taken back; set averaging and overfitting.every to 0, or "
                "choose the strategy ddp."
            )
        check_world(self.devices, self.nodes)

    def trainer_settings(self) -> dict[str, Any]:
        """What Lightning's Trainer is told."""
        strategy = "auto"
        if self.world > 1:
            from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy

            sharded = FSDPStrategy(state_dict_type="full", use_orig_params=True)
            strategy = sharded if self.strategy == "fsdp" else DDPStrategy()
        return {"accelerator": self.kind, "devices": self.devices, "num_nodes": self.nodes, "strategy": strategy}
