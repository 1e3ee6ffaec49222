"""Fingerprints: what tells the results of one evaluation from those of another."""

from __future__ import annotations

import hashlib
from pathlib import Path

from torch import Tensor

_UNRELATED = ("cli.py", "progress.py", "reporting", "training")


def code_fingerprint() -> str:
    """SHA-256 of the sources that decide the outcome of an evaluation."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        name = file.relative_to(package)
        if name.parts[0] not in _UNRELATED:
            digest.update(f"{name.as_posix()} ".encode() + file.read_bytes())
    return digest.hexdigest()


def tensor_fingerprint(*tensors: Tensor) -> str:
    """SHA-256 of the types, shapes and contents of tensors."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()
