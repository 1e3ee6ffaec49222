"""Fingerprints: what tells the results of one evaluation from those of another."""

from __future__ import annotations

import hashlib
from pathlib import Path

from torch import Tensor

DISPLAY = ("cli.py", "progress.py", "reporting")
ABOVE = (*DISPLAY, "benchmarks", "reproduce")


def code_fingerprint(unrelated: tuple[str, ...] = (*ABOVE, "training")) -> str:
    """SHA-256 of the sources that decide the outcome of an evaluation.

    Args:
        unrelated: modules and packages that decide nothing of it.
    """
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        name = file.relative_to(package)
        if name.parts[0] not in unrelated:
            digest.update(f"{name.as_posix()} ".encode() + file.read_bytes())
    return digest.hexdigest()


def tensor_fingerprint(*tensors: Tensor) -> str:
    """SHA-256 of the types, shapes and contents of tensors."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()
