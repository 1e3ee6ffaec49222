"""Tensors in files: written whole or not at all, and sealed by a digest of all that was written."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from robustdeq.base.errors import InputError
from robustdeq.base.files import replace_with

SEAL = "sha256"
"""The key of the digest in the metadata; older files have none."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors as safetensors, whole or not at all.

    Args:
        path: the file.
        tensors: by name; they may lie on any device, and share their memory.
        metadata: what is said of them.

    Raises:
        OSError: the file cannot be written.
    """
    contents: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        place = own.untyped_storage().data_ptr()
        contents[name] = own.clone() if place in places else own
        places.add(place)
    said = {**metadata, SEAL: _digest(contents, metadata)}

    def write(temporary: Path) -> None:
        try:
            save_file(contents, temporary, metadata=said)
        except SafetensorError as error:
            raise OSError(errno.EIO, str(error), str(path)) from error

    replace_with(path, write)


def read_sealed(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a safetensors file, and what is said of them.

    Raises:
        OSError: the file cannot be read.
        SafetensorError: it holds something else, or not what was written.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        raise
    except Exception as error:
        raise SafetensorError(str(error)) from error
    seal = metadata.pop(SEAL, None)
    if seal is not None and seal != _digest(tensors, metadata):
        raise SafetensorError("its content is not what was written")
    return tensors, metadata


def read_tensors(path: Path, names: Sequence[str], what: str) -> dict[str, Tensor]:
    """Some tensors of a safetensors file.

    Args:
        path: the file.
        names: of the tensors.
        what: the file should hold, in words.

    Raises:
        InputError: the file cannot be read, or lacks one of them.
    """
    try:
        found = read_sealed(path)[0]
        return {name: found[name] for name in names}
    except (OSError, SafetensorError, KeyError) as error:
        raise InputError(f"{path} holds no {what} ({error}).") from error


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256, in hexadecimal, of tensors and what is said of them."""
    digest = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
