"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write a text file so that an interruption leaves either the old file or the new one.

    What UTF-8 cannot hold, as from the name of a file, is written as its code.
    """
    replace_with(path, lambda temporary: temporary.write_text(text, encoding="utf-8", errors="backslashreplace"))


def read_text(path: Path) -> str:
    """The text of a file; raises `OSError` where it cannot be read or is a pipe, `ValueError` where it is not UTF-8."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return path.read_text(encoding="utf-8")


def file_digest(path: Path) -> str:
    """SHA-256, in hexadecimal, of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def replace_with(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` write a temporary file beside `path`, then put it in its place.

    Args:
        path: the file; its folder is made where it is missing.
        write: given the temporary path, writes the content there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
