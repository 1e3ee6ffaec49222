"""Models of others by the import path of what makes them: `FILE.py:NAME` or `package.module:NAME`.

The code behind such a path runs because it was asked for by name; weights come as tensors alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_type_hints

import torch
from torch import Tensor, nn

from robustdeq.base.errors import InputError, hint, require
from robustdeq.base.imports import imported, reason
from robustdeq.base.plain import check_fits
from robustdeq.data import Images
from robustdeq.deq.model import DEQ
from robustdeq.deq.modes import evaluating
from robustdeq.zoo.architecture import ZooModel
from robustdeq.zoo.checkpoint import state_dict
from robustdeq.zoo.equilibrium import EquilibriumConfig
from robustdeq.zoo.torchdeq import from_torchdeq, has_core

_TRIED = 8
_SOLVER, _TAIL = ("max_steps", "tol"), ("tail_steps", "tail_damping")


@dataclass(frozen=True)
class Factory:
    """What makes a model: a function by its import path, and its keyword arguments.

    Args:
        path: it returns a `DEQ`, a module with a TorchDEQ core, or any other module x → logits.
        arguments: those that it takes; and of a `DEQ` the settings of the solve that it does not take itself:
            `max_steps`, `tol`, `tail_steps` and `tail_damping`, whose tail starts from f(z*).
    """

    path: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """A name for folders."""
        return Path(self.path).name.replace(".py:", "-").replace(":", "-")

    def make(self) -> nn.Module:
        """The model; the code behind the path runs.

        Raises:
            InputError: the factory cannot be imported, does not take the arguments, fails, or returns no module, or a
                setting of the solve is of another type.
        """
        factory = imported(self.path)
        taken, solve = _split(self.path, factory, self.arguments)
        try:
            model = factory(**taken)
        except Exception as error:
            raise InputError(f"{self.path} makes no model ({reason(error)}).") from error
        if not isinstance(model, nn.Module):
            raise InputError(f"{self.path} returns a {type(model).__name__}; make it return a torch.nn.Module.")
        return _solved(model, solve, self.path) if solve else model

    def loaded(self, weights: Path) -> nn.Module:
        """The model with a state dict, as safetensors or as `torch.save` writes it; raises `InputError` as `make`."""
        model = self.make()
        try:
            model.load_state_dict(state_dict(weights))
        except RuntimeError as error:
            said = f"the weights in {weights} do not fit the model of {self.path} ({reason(error)})."
            raise InputError(said) from error
        return model

    def beside(self, folder: Path) -> Factory:
        """The same; its file is looked for in a folder where there is none in the current one."""
        place, _, name = self.path.rpartition(":")
        moved = place.endswith(".py") and not Path(place).is_file() and (folder / place).is_file()
        return replace(self, path=f"{folder / place}:{name}") if moved else self


def _split(path: str, factory: Any, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a factory takes of the arguments, and the settings of the solve; `InputError` for others or too few."""
    try:
        known = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return dict(arguments), {}
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
    taken = {name: value for name, value in arguments.items() if takes_all or name in known}
    solve = {name: value for name, value in arguments.items() if name not in taken}
    for name in solve:
        if name not in (*_SOLVER, *_TAIL):
            otherwise = None if known else "it takes none."
            raise InputError(f"{path} takes no {name!r}; {hint(name, known, otherwise)}")
    for name, parameter in known.items():
        named = parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        require(
            not named or parameter.default is not parameter.empty or name in taken,
            f"{path} needs {name!r}; give --model.{name}, or --architecture.{name} where --model is its path.",
        )
    return taken, solve


def _solved(model: nn.Module, solve: Mapping[str, Any], path: str) -> DEQ:
    """The model with other settings of its solve, which have the names that they have in the zoo."""
    if not isinstance(model, DEQ):
        raise InputError(f"{path} takes no {next(iter(solve))!r}, and its {type(model).__name__} has no solve of ours.")
    check_fits(path, solve, get_type_hints(EquilibriumConfig))
    solver = {name: value for name, value in solve.items() if name in _SOLVER}
    tail = {name.removeprefix("tail_"): value for name, value in solve.items() if name in _TAIL}
    tail |= {"from_image": True} if tail else {}
    return model.with_settings(solver=replace(model.solver, **solver), tail=replace(model.tail, **tail))


def check_takes(model: nn.Module, images: Images, name: str = "the model") -> None:
    """Raise `InputError` unless a model takes such images and gives a logit for each of their classes.

    Args:
        model: one of the zoo, which knows, or any other, which is tried.
        images: the images.
        name: what the sentence calls the model, such as its file.
    """
    shape, classes = tuple(images.pixels.shape[1:]), len(images.classes)
    if isinstance(model, ZooModel):
        model.check_images(shape, classes, images.source, name)
        return
    example = images.head(_TRIED).tensors()[0].to(next(model.parameters(), torch.empty(0)).device)
    try:
        with torch.no_grad(), evaluating(model):
            logits = model(example)
    except Exception as error:
        raise InputError(f"{name} takes no images of shape {shape} ({reason(error)}).") from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(example):
        raise InputError(f"{name} does not return logits (B, K); wrap it in a module that does.")
    if logits.shape[1] < classes:
        raise InputError(f"{name} gives {logits.shape[1]} logits for the {classes} classes of {images.source}.")


def ready(model: nn.Module, images: Images) -> nn.Module:
    """The model in eval mode, ready to be attacked: one with a TorchDEQ core as a `DEQ` that shares its weights."""
    return from_torchdeq(model, images.head(_TRIED).tensors()[0]) if has_core(model) else model.eval()
