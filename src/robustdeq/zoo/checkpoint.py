"""State dicts in files of others: tensors alone, read without running anything in them, no larger than their files.

A tensor can claim to be larger than what it is stored in, a stored record larger than the file.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import ZipFile, is_zipfile

import torch
from torch import Tensor

from robustdeq.base.errors import InputError, require
from robustdeq.base.imports import reason
from robustdeq.base.tensors import read_sealed

_WRAPPERS = ("state_dict", "model", "net")
_NUMBERS = {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64} | {
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
}


def state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors in a file by name, on the CPU.

    Args:
        path: a safetensors file; or what `torch.save` wrote, a state dict or one within a checkpoint.

    Raises:
        InputError: it holds something else, or is not whole.
    """
    require(path.is_file(), f"{path} is no file; give a checkpoint.")
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            content: Any = read_sealed(path)[0] if path.suffix == ".safetensors" else _saved(path)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} is not a checkpoint of tensors alone, and anything else could run code when it is read; "
            "save the state_dict by itself with torch.save."
        ) from error
    except Exception as error:
        raise InputError(f"{path} is not a whole checkpoint ({reason(error)}); write it anew.") from error
    if isinstance(content, Mapping):
        content = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), content)
    named = isinstance(content, Mapping) and all(isinstance(name, str) for name in content)
    if not named or not content or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise InputError(f"{path} holds no state dict of tensors; save the state_dict of the network.")
    for name, tensor in content.items():
        _check(name, tensor, path)
    return dict(content)


def _saved(path: Path) -> Any:
    """What `torch.save` wrote: records that are not packed, so that together they are no larger than the file."""
    if is_zipfile(path):
        with ZipFile(path) as file:
            if sum(record.file_size for record in file.infolist()) > path.stat().st_size:
                raise ValueError("its records are packed")
    return torch.load(path, map_location="cpu", weights_only=True)


def _check(name: str, tensor: Tensor, path: Path) -> None:
    """Raise `InputError` unless a tensor is made of plain numbers, each with a place of its own."""
    plain = tensor.layout is torch.strided and tensor.device.type == "cpu" and tensor.dtype in _NUMBERS
    require(plain, f"{name} in {path} is sparse, quantised, complex or without numbers; save plain real tensors.")
    if tensor.nbytes > tensor.untyped_storage().nbytes():
        raise InputError(f"{name} in {path} claims to be {tuple(tensor.shape)} and is not; save it as contiguous().")
