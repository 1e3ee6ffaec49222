"""The outline of a model: its tensors without memory, so that what a file claims is held against what is in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

_SPARE = 100


@contextmanager
def outlined(tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Within it modules are made without memory or random numbers, and of no more parameters than these tensors fill.

    Raises:
        ValueError: there are more, by far.
    """
    left = 2 * len(tensors) + _SPARE

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError(f"it has more than the {len(tensors)} tensors of the file")

    watch = register_module_parameter_registration_hook(count)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            yield
    except (RuntimeError, OverflowError, MemoryError) as error:
        raise ValueError(str(error)) from error
    finally:
        watch.remove()
