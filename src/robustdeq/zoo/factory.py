"""Models of others by the import path of what makes them: `FILE.py:NAME` or `package.module:NAME`.

The code behind such a path runs because it was asked for by name; weights come as tensors alone.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import pickle
import re
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from robustdeq.base.errors import InputError, hint, require
from robustdeq.base.shapes import Pixels
from robustdeq.zoo.torchdeq import from_torchdeq, has_core

_PATH = re.compile(r"(?P<place>.+\.py|\w+(?:\.\w+)*):(?P<name>[^\W\d]\w*)")


def is_import_path(text: str) -> bool:
    """Whether a text is `FILE.py:NAME` or `package.module:NAME`."""
    return _PATH.fullmatch(text) is not None


def imported(path: str) -> Any:
    """What an import path names; the code of its module runs.

    Args:
        path: `FILE.py:NAME`, with the folder of the file open to its imports, or `package.module:NAME`.

    Raises:
        InputError: it is no import path, there is no such file, module or name, or the module cannot be run.
    """
    found = _PATH.fullmatch(path)
    if found is None:
        raise InputError(f"{path!r} is no import path; give FILE.py:NAME or package.module:NAME.")
    place, name = found["place"], found["name"]
    try:
        module = _module_of(Path(place)) if place.endswith(".py") else import_module(place)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{place} cannot be imported ({_reason(error)}).") from error
    names = [known for known, value in vars(module).items() if callable(value) and not known.startswith("_")]
    if not hasattr(module, name):
        raise InputError(f"{place} has no {name!r}; {hint(name, names)}")
    return getattr(module, name)


def _module_of(file: Path) -> Any:
    """The module in a file, imported once for each file as it is."""
    require(file.is_file(), f"there is no file {file}; give FILE.py:NAME or package.module:NAME.")
    file = file.resolve()
    key = f"robustdeq_{file.stem}_{hashlib.sha256(str(file).encode() + file.read_bytes()).hexdigest()[:12]}"
    if key not in sys.modules:
        spec = importlib.util.spec_from_file_location(key, file)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[key] = importlib.util.module_from_spec(spec)
        sys.path.insert(0, str(file.parent))
        try:
            spec.loader.exec_module(sys.modules[key])
        except BaseException:
            del sys.modules[key]
            raise
        finally:
            sys.path.remove(str(file.parent))
    return sys.modules[key]


def made_by(path: str, arguments: Mapping[str, Any], weights: Path | None, example: Pixels) -> nn.Module:
    """The model that a factory makes, in eval mode.

    Args:
        path: of the factory: it returns a `DEQ`, a module with a TorchDEQ core, or any other module x → logits.
        arguments: its keyword arguments.
        weights: a state dict for what it returns, as safetensors or as `torch.save` writes it; None leaves it as made.
        example: a batch of images that the model takes.

    Returns:
        The module; one with a TorchDEQ core as a `DEQ` that shares its weights.

    Raises:
        InputError: the factory cannot be imported, does not take the arguments, fails, or returns no module; the
            weights do not fit; or the model takes no such images.
    """
    factory = imported(path)
    _check_arguments(path, factory, arguments)
    try:
        model = factory(**arguments)
    except Exception as error:
        raise InputError(f"{path} makes no model ({_reason(error)}).") from error
    if not isinstance(model, nn.Module):
        raise InputError(f"{path} returns a {type(model).__name__}; make it return a torch.nn.Module.")
    if weights is not None:
        try:
            model.load_state_dict(_tensors(weights))
        except RuntimeError as error:
            raise InputError(f"the weights in {weights} do not fit the model of {path} ({_reason(error)}).") from error
    model = from_torchdeq(model, example) if has_core(model) else model.eval()
    try:
        with torch.no_grad():
            logits = model(example)
    except Exception as error:
        shape = tuple(example.shape[1:])
        raise InputError(f"the model of {path} takes no images of shape {shape} ({_reason(error)}).") from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(example):
        raise InputError(f"the model of {path} does not return logits (B, K); wrap it in a module that does.")
    return model


def _check_arguments(path: str, factory: Any, arguments: Mapping[str, Any]) -> None:
    """Raise `InputError` where a factory does not take some arguments, or needs others."""
    try:
        known = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
    for name in arguments:
        if name not in known and not takes_all:
            otherwise = None if known else "it takes none."
            raise InputError(f"{path} takes no {name!r}; {hint(name, known, otherwise)}")
    for name, parameter in known.items():
        named = parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        require(
            not named or parameter.default is not parameter.empty or name in arguments,
            f"{path} needs {name!r}; give --model.{name}.",
        )


def _tensors(path: Path) -> dict[str, Tensor]:
    """The state dict in a file, read without running anything in it."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, pickle.UnpicklingError, EOFError, RuntimeError, ValueError) as error:
        raise InputError(f"{path} holds no weights that can be read ({_reason(error)}).") from error
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{path} holds no state dict of tensors; save the state_dict of the model.")
    return dict(content)


def _reason(error: BaseException) -> str:
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
