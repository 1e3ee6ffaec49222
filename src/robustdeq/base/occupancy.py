"""Who works in a folder: one process alone, or several beside one another.

The lock (flock) is on the folder itself: no file is left in it, a folder that is moved keeps it, and the system lets go
of what a killed process held. Where the file system has no such locks nobody is kept out.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from robustdeq.base.errors import InputError

if sys.platform == "win32":

    def _lock(place: int, alone: bool) -> None:
        """Windows has no such locks."""
else:
    import fcntl

    def _lock(place: int, alone: bool) -> None:
        fcntl.flock(place, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Within it this process has a folder, which is made where it is missing, for itself.

    Raises:
        InputError: another one works there, or the folder cannot be opened.
    """
    with _occupied(folder, alone=True):
        yield


@contextmanager
def beside_others_in(folder: Path) -> Iterator[None]:
    """Within it this process works in a folder beside others that do the same; raises as `alone_in` does."""
    with _occupied(folder, alone=False):
        yield


@contextmanager
def _occupied(folder: Path, alone: bool) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        place = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"{folder} cannot be opened ({error.strerror}); choose another --output.") from error
    try:
        _lock(place, alone)
    except BlockingIOError as error:
        os.close(place)
        raise InputError(
            f"another process works in {folder}; wait until it has ended, or choose another --output."
        ) from error
    except OSError:
        pass
    try:
        yield
    finally:
        os.close(place)
