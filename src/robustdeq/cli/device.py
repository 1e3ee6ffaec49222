"""The device that a command computes on."""

from __future__ import annotations

import torch

from robustdeq.base.errors import InputError


def device_named(name: str) -> torch.device:
    """The device for the option --device.

    Args:
        name: cpu, cuda, or auto for CUDA where there is one.

    Raises:
        InputError: this machine has no such device.
    """
    available = ["cpu"] + ["cuda"] * torch.cuda.is_available()
    if name != "auto" and name not in available:
        raise InputError(f"device is {name!r}; on this machine choose auto or {' or '.join(available)}.")
    return torch.device(available[-1] if name == "auto" else name)
