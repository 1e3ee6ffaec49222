"""What all tests share: the number of threads, a fixed seed, and, where asked for, run-time checks of shapes and types.

CHECK_SHAPES=1 checks every call of the package by beartype (twice as slow); OMP_NUM_THREADS=2 computes in two threads.
"""

import os
from collections.abc import Iterator

import jaxtyping
import pytest
import torch

os.environ.pop("COLUMNS", None)  # which pytest-xdist sets, so that no test could choose a width
torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "1")))
if "CHECK_SHAPES" in os.environ:
    jaxtyping.install_import_hook("robustdeq", "typecheck.checked")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments of the wrong kind reach the package, as they do for a user without a type checker."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(scope="module")
def float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)
