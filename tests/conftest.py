"""What all tests share: run-time checks of shapes and types, one thread, a fixed seed."""

import os
from collections.abc import Iterator

import jaxtyping
import pytest
import torch

os.environ.pop("COLUMNS", None)  # which pytest-xdist sets, so that no test could choose a width
jaxtyping.install_import_hook("robustdeq", "typecheck.checked")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def unchecked() -> Iterator[None]:
    """No run-time checks of shapes and types, as users have it: more than twice as fast."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)
