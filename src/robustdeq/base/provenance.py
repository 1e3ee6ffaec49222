"""Fingerprints and plain descriptions: what tells the results of one evaluation from those of another."""

from __future__ import annotations

import ast
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any

from torch import Tensor, nn

DISPLAY = ("cli", "base/extras", "base/progress", "reporting")
ABOVE = (*DISPLAY, "study", "leaderboard", "recipes")
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_PACKAGE = Path(__file__).parents[1]


def code_fingerprint(unrelated: tuple[str, ...] = (*ABOVE, "training"), package: Path = _PACKAGE) -> str:
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


@cache
def _syntax(source: str) -> str:
    """A digest that is the same for two sources that differ in nothing but comments, docstrings and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node) is not None:
            node.body[0] = ast.Pass()
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def tensor_fingerprint(*tensors: Tensor) -> str:
    """SHA-256 of the types, shapes and contents of tensors."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def describe(thing: Any) -> Any:
    """What an object is, in plain JSON values: its class and its settings, those of its parts included.

    Two objects with the same description do the same. Modules are described by their weights, tensors by a fingerprint.

    Args:
        thing: a setting: a number, a collection, a dataclass or any object with attributes.
    """
    match thing:
        case None | bool() | int() | str():
            return thing if thing is None or isinstance(thing, bool | int) else str(thing)
        case float():
            return thing if math.isfinite(thing) else str(thing)
        case Tensor():
            return tensor_fingerprint(thing)
        case nn.Module():
            return {"class": type(thing).__qualname__, "weights": tensor_fingerprint(*thing.state_dict().values())}
        case Mapping():
            return {str(key): describe(value) for key, value in thing.items()}
        case list() | tuple() | range():
            return [*map(describe, thing)]
        case type() | FunctionType():
            return f"{thing.__module__}.{thing.__qualname__}"
    if is_dataclass(thing):
        settings = {field.name: getattr(thing, field.name) for field in fields(thing)}
    else:
        settings = getattr(thing, "__dict__", {})
    return {"class": type(thing).__qualname__} | {name: describe(value) for name, value in settings.items()}


def dotted(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted names, as on the command line."""
    found = {}
    for name, value in settings.items():
        full = f"{prefix}{name}"
        found |= dotted(value, f"{full}.") if isinstance(value, Mapping) else {full: value}
    return found


def digest(description: Any) -> str:
    """A short name for a description: the first 16 digits of its SHA-256."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:16]
