"""Fingerprints and plain descriptions: what tells the results of one evaluation from those of another."""

from __future__ import annotations

import ast
import dis
import hashlib
import inspect
import json
import math
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MemberDescriptorType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

DISPLAY = ("cli", "base/extras", "base/progress", "reporting")
ABOVE = (*DISPLAY, "study", "leaderboard", "recipes")
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_PACKAGE = Path(__file__).parents[1]
_LIBRARIES = {"torch", "numpy", *sys.stdlib_module_names}
_OF_ANY_MODULE = vars(nn.Module()).keys()


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


def command_and_versions() -> dict[str, str]:
    """The command that runs and the versions it runs with, to stand beside what it makes."""
    return {
        "command": shlex.join(["robustdeq", *sys.argv[1:]]),
        "robustdeq": version("robustdeq"),
        "torch": torch.__version__,
    }


def tensor_fingerprint(*tensors: Tensor) -> str:
    """SHA-256 of the types, shapes and contents of tensors."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def describe(thing: Any, within: tuple[int, ...] = ()) -> Any:
    """What an object is, in plain JSON values: its class and its settings, those of its parts included.

    Two objects with the same description do the same. Modules are described by their weights and `parts`, tensors by a
    fingerprint, functions and classes of others by their code and the values of their module that it reads, but not by
    what it calls.

    Args:
        thing: a setting: a number, a collection, a function, a dataclass or any object with attributes.
        within: the ids of all that it is part of, which is not described again.
    """
    if id(thing) in within:
        return "what it is part of"
    part = partial(describe, within=(*within, id(thing)))
    match thing:
        case None | bool() | int() | str():
            return thing if thing is None or isinstance(thing, bool | int) else str(thing)
        case float():
            return thing if math.isfinite(thing) else str(thing)
        case Tensor():
            return tensor_fingerprint(thing)
        case np.ndarray() | np.generic():
            return [thing.dtype.str, list(thing.shape), digest(part(thing.tolist()))]
        case nn.Module():
            state = thing.state_dict()
            weights = {name: value for name, value in state.items() if isinstance(value, Tensor)}
            others = part({name: value for name, value in state.items() if name not in weights})
            said = {"class": type(thing).__qualname__, "weights": tensor_fingerprint(*weights.values())}
            return said | {"parts": digest(parts(thing, within))} | ({"state": digest(others)} if others else {})
        case Mapping():
            return {str(key): part(value) for key, value in thing.items()}
        case list() | tuple() | range():
            return [*map(part, thing)]
        case set() | frozenset():
            return sorted(map(part, thing), key=json.dumps)
        case partial():
            return {"function": part(thing.func), "given": part([thing.args, thing.keywords])}
        case MethodType():
            return {"function": part(thing.__func__), "of": part(thing.__self__)}
        case CodeType():
            return [thing.co_code.hex(), *thing.co_names, part(thing.co_consts)]
        case FunctionType() if not _known(thing):
            held = [cell.cell_contents for cell in thing.__closure__ or ()]
            said = part([thing.__code__, held, thing.__defaults__, thing.__kwdefaults__])
            read = part(dict(_read(thing)))
            return {"function": thing.__qualname__, "code": digest([*said, read] if read else said)}
        case type() if not _known(thing):
            return {"type": thing.__qualname__} | _code(thing, within)
        case type() | FunctionType() | BuiltinFunctionType():
            return f"{thing.__module__}.{thing.__qualname__}"
    described = {name: part(value) for name, value in _attributes(thing).items()}
    return {"class": type(thing).__qualname__} | _code(type(thing), within) | described


def _attributes(thing: Any) -> dict[str, Any]:
    """What an object holds, in its `__dict__` and its slots; of those of libraries, what they say that they are."""
    if is_dataclass(thing):
        return {field.name: getattr(thing, field.name) for field in fields(thing)}
    slots = {
        name: getattr(thing, name)
        for kind in type(thing).__mro__
        if _package(kind) not in _LIBRARIES
        for name, slot in vars(kind).items()
        if isinstance(slot, MemberDescriptorType) and hasattr(thing, name)
    }
    if _package(type(thing)) in _LIBRARIES or not (slots or hasattr(thing, "__dict__")):
        return {} if " at 0x" in repr(thing) else {"is": repr(thing)}
    return getattr(thing, "__dict__", {}) | slots


def parts(module: nn.Module, within: tuple[int, ...] = ()) -> dict[str, Any]:
    """What the parts of a module are besides their weights: of each, its class, its plain attributes and its hooks.

    Of private ones only numbers and texts count, and no device does: the rest may be what it remembers.

    Args:
        module: the module.
        within: as for `describe`.
    """
    return {
        name: {"class": describe(type(part), (*within, id(module)))}
        | {
            attribute: describe(value, (*within, id(module), id(part)))
            for attribute, value in vars(part).items()
            if attribute not in _OF_ANY_MODULE
            and not isinstance(value, torch.device)
            and not (attribute.startswith("_") and (_known(type(part)) or not isinstance(value, int | float | str)))
        }
        | ({"hooks": describe(added, (*within, id(module), id(part)))} if (added := hooks(part)) else {})
        for name, part in module.named_modules(remove_duplicate=False)
    }


def hooks(part: nn.Module) -> list[Any]:
    """What runs before and after the forward pass of a part, and may change what it returns."""
    return [*part._forward_pre_hooks.values(), *part._forward_hooks.values()]


def source_of(kind: type, within: tuple[int, ...] = ()) -> str:
    """The source of somebody's class, or its name where there is no file of it; empty for those of libraries here.

    Behind it stand the values of its module that its functions read.

    Args:
        kind: the class.
        within: as for `describe`.
    """
    if _known(kind):
        return ""
    try:
        source = inspect.getsource(kind)
    except (OSError, TypeError):
        source = f"{kind.__module__}.{kind.__qualname__}"
    within = (*within, id(kind))
    read = {name: describe(value, within) for function in _functions(kind) for name, value in _read(function)}
    return f"{source}\n{json.dumps(read, sort_keys=True)}" if read else source


def _code(kind: type, within: tuple[int, ...]) -> dict[str, str]:
    """A digest of the source of somebody's class and of what it derives from; nothing for classes of libraries here."""
    sources = [source for base in kind.__mro__ if (source := source_of(base, within))]
    return {"code": digest(sources)} if sources else {}


def _functions(kind: type) -> Iterator[FunctionType]:
    """The functions that a class defines, out of their decorators."""
    for defined in vars(kind).values():
        for function in (defined, *(getattr(defined, name, None) for name in ("__func__", "fget", "func"))):
            if isinstance(function, FunctionType):
                bare = inspect.unwrap(function)
                yield bare if isinstance(bare, FunctionType) else function


def _read(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """The values of its module that a function reads, by name: numbers, texts, tensors, networks, collections of them.

    What it assigns itself, and private collections that can grow, may be what it remembers, and do not count; nor does
    what its module is called, and where it lies.
    """
    codes, read, assigned = [function.__code__], set(), set()
    for code in codes:
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
        for step in dis.get_instructions(code):
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                read.add(step.argval)
            elif step.opname == "STORE_GLOBAL":
                assigned.add(step.argval)
    for name in sorted((read - assigned) & function.__globals__.keys()):
        value = function.__globals__[name]
        remembers = name.startswith("_") and isinstance(value, list | set | Mapping)
        if _is_setting(value) and not (remembers or name.startswith("__")):
            yield name, value


def _is_setting(value: Any) -> bool:
    """Whether a value says what is computed with it, and computes nothing unless it is a network."""
    match value:
        case list() | tuple() | set() | frozenset():
            return all(map(_is_setting, value))
        case Mapping():
            return all(map(_is_setting, value.values()))
    plain = isinstance(value, bool | int | float | complex | str | bytes | range)
    return value is None or plain or isinstance(value, Tensor | np.ndarray | np.generic | nn.Module)


def _known(thing: type | FunctionType) -> bool:
    """Whether something is told by its name, since the versions of its library and of the code are."""
    return _package(thing) in {"robustdeq", *_LIBRARIES}


def _package(thing: type | FunctionType) -> str:
    return f"{thing.__module__}".partition(".")[0]


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
