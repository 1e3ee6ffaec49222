"""Where a run takes place: which devices, how many, and how they share the work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy

from robustdeq.base.errors import InputError, check_choice, check_counts, require


@dataclass(frozen=True)
class Hardware:
    """Where a run takes place; the training is the same wherever.

    Args:
        device: `"cpu"`, `"cuda"` or `"auto"`.
        devices: how many on each machine.
        nodes: how many machines; start the command on each with torchrun.
        strategy: `"auto"` (one device, or data-parallel), `"ddp"` or `"fsdp"` (the weights sharded; needs CUDA).

    Raises:
        InputError: a setting is out of its range, or the machine has not so many devices.
    """

    device: str = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"

    def __post_init__(self) -> None:
        check_counts(devices=self.devices, nodes=self.nodes)
        check_choice("device", self.device, ("auto", "cpu", "cuda"))
        check_choice("strategy", self.strategy, ("auto", "ddp", "fsdp"))
        if self.kind == "cuda" and self.devices > torch.cuda.device_count():
            raise InputError(
                f"devices is {self.devices}, and this machine has {torch.cuda.device_count()} for CUDA; ask for fewer, "
                "or for the device cpu."
            )
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

    def trainer_settings(self) -> dict[str, Any]:
        """What Lightning's Trainer is told."""
        strategy = "auto"
        if self.world > 1:
            sharded = FSDPStrategy(state_dict_type="full", use_orig_params=True)
            strategy = sharded if self.strategy == "fsdp" else DDPStrategy()
        return {"accelerator": self.kind, "devices": self.devices, "num_nodes": self.nodes, "strategy": strategy}
