"""The exponential moving average of the weights, which is what is validated and kept."""

from __future__ import annotations

import lightning
import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging
from torch import Tensor
from typing_extensions import override

from robustdeq.base.errors import require


class Averaging(WeightAveraging):
    """w̄ ← d w̄ + (1 − d) w after step t + 1, with d = min(decay, (1 + t) / (10 + t)), and w̄ = w after the first.

    Buffers of floating point (statistics of BatchNorm) are averaged too; others are copied.

    Args:
        decay: in [0, 1).

    Raises:
        InputError: the decay is out of its range.
    """

    def __init__(self, decay: float) -> None:
        require(0 <= decay < 1, f"averaging is {decay}; give the decay of the average, in [0, 1).")

        def average(means: list[Tensor], currents: list[Tensor], count: Tensor | int) -> None:
            if not means[0].is_floating_point():
                torch._foreach_copy_(means, currents)
                return
            t = self._latest_update_step
            torch._foreach_lerp_(means, currents, 1 - min(decay, (1 + t) / (10 + t)))

        super().__init__(multi_avg_fn=average)

    @override
    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and self._average_model is not None:
            # On the host, so that no step waits for the device to compare it with 0.
            self._average_model.n_averaged = self._average_model.n_averaged.cpu()

    def restart(self, module: lightning.LightningModule) -> None:
        """Make the average the weights as they are."""
        assert self._average_model is not None
        self._average_model.module.load_state_dict(module.state_dict())

    # What is kept at the end of a validation are the average's weights; Lightning takes them away before that.
    on_validation_epoch_start = Callback.on_validation_epoch_start
    on_validation_epoch_end = Callback.on_validation_epoch_end

    @override
    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self._average_model is not None:
            self._swap_models(pl_module)

    on_validation_end = on_validation_start
