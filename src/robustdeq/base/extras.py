"""What an extra of the package brings: where it is missing, one sentence says how to install it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from robustdeq.base.errors import InputError


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Import within it what an extra brings.

    Args:
        name: of the extra, as in `pip install "robustdeq[NAME]"`.

    Raises:
        InputError: a module is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        brings = f'pip install "robustdeq[{name}]" brings it, and "robustdeq[all]" all that the command line needs'
        raise InputError(f"{error.name} is not installed; {brings}.") from error
