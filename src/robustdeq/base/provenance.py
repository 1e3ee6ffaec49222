"""Fingerprints: what tells the results of one evaluation from those of another."""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path

from torch import Tensor

DISPLAY = ("cli", "base/progress", "reporting")
ABOVE = (*DISPLAY, "study", "recipes")
_PACKAGE = Path(__file__).parents[1]


def code_fingerprint(
    unrelated: tuple[str, ...] = (*ABOVE, "training"), package: Path = Path(__file__).parents[1]
) -> str:
    """SHA-256 of the syntax trees, without docstrings, of the sources that decide the outcome of an evaluation.

    Comments, docstrings and layout do not change it.

    Args:
        unrelated: the beginnings of the paths of modules that decide nothing of it.
        package: the folder of the sources.
    """
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        name = file.relative_to(package).as_posix()
        if not name.startswith(unrelated):
            digest.update(f"{name} {_syntax(file.read_text(encoding='utf-8'))}".encode())
    return digest.hexdigest()


def _syntax(source: str) -> str:
    """A text that is the same for two sources that differ in nothing but comments, docstrings and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_docstring(body[0]):
            body[0] = ast.Pass()
    return ast.dump(tree)


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def tensor_fingerprint(*tensors: Tensor) -> str:
    """SHA-256 of the types, shapes and contents of tensors."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()
