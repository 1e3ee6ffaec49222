"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from robustdeq.base.errors import InputError


def write_text(path: Path, text: str) -> None:
    """Write a text file so that an interruption leaves either the old file or the new one."""
    replace_with(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors as safetensors, whole or not at all.

    Args:
        path: the file.
        tensors: by name; they may lie on any device.
        metadata: what is said of them.

    Raises:
        OSError: the file cannot be written.
    """
    contents = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}

    def write(temporary: Path) -> None:
        try:
            save_file(contents, temporary, metadata=dict(metadata))
        except SafetensorError as error:
            raise OSError(errno.EIO, str(error), str(path)) from error

    replace_with(path, write)


def read_tensors(path: Path, names: Sequence[str], what: str) -> dict[str, Tensor]:
    """Read some tensors of a safetensors file.

    Args:
        path: the file.
        names: of the tensors.
        what: the file should hold, in words.

    Raises:
        InputError: the file cannot be read, or lacks one of them.
    """
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} holds no {what} ({error}).") from error


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
