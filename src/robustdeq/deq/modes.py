"""The modes of a module: eval mode, frozen weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Within it the parameters need no gradient, so that none is computed for them."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Within it the module is in eval mode and its parameters need no gradient."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        with frozen(module):
            yield
    finally:
        for part in training:
            part.training = True
