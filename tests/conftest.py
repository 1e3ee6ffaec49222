"""What all tests share: threads, a fixed seed, no network, and, where asked for, run-time checks of shapes and types.

CHECK_SHAPES=1 checks every call of the package by beartype (twice as slow); OMP_NUM_THREADS=2 computes in two threads.
"""

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import jaxtyping
import pytest
import torch

os.environ.pop("COLUMNS", None)  # which pytest-xdist sets, so that no test could choose a width
torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "1")))
if "CHECK_SHAPES" in os.environ:
    jaxtyping.install_import_hook("robustdeq", "typecheck.checked")
CHECKED = ("base", "data", "solvers", "deq", "zoo", "attacks", "evaluation", "training")
"""Folders of the core, whose quick tests run with shapes and types checked."""
UNCHECKED = {
    "evaluation": "bracket diagnostics distributed hardest measure missing planted probes resume strangers strict "
    "verification worst_case",
    "training": "distributed_training fit guards margins record resumed_training",
    "deq": "monotone_operators",
    "zoo": "monotone_networks",
}
"""But for these, which run processes of their own, where nothing would be checked, or whole evaluations and trainings,
whose checks would take longer than they do."""
hypothesis.settings.register_profile("not timed", deadline=None)
hypothesis.settings.load_profile("not timed")


def stay(event: str, arguments: tuple[Any, ...]) -> None:
    """Fail a test that looks up or asks another machine; no library can take that for a network that is down."""
    match event, arguments:
        case "socket.getaddrinfo", (asked, *_):
            host = asked.decode() if isinstance(asked, bytes) else asked
        case "socket.connect" | "socket.sendto", (_, (str(host), *_)):
            pass
        case _:
            return
    if host not in (None, "", "::1", "localhost", socket.gethostname()) and not host.startswith("127."):
        pytest.fail(f"{event} to {host}: tests reach no machine but this one.")


sys.addaudithook(stay)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder, _, name = item.path.relative_to(Path(__file__).parent).as_posix().partition("/")
        whole = name.removeprefix("test_").removesuffix(".py") in UNCHECKED.get(folder, "").split()
        if folder in CHECKED and not whole and item.get_closest_marker("slow") is None:
            item.add_marker("checked")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments of the wrong kind reach the package, as they do for a user without a type checker."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute in one thread: a process that is forked waits for ever for the others of the pool that it inherits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)
