"""What a command works on: weights by name or file, or what somebody's factory makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from robustdeq.attacks import PGD, Attack
from robustdeq.base.errors import InputError, require
from robustdeq.base.imports import imported, is_import_path
from robustdeq.base.threat import ThreatModel
from robustdeq.data import Images
from robustdeq.deq import Around, Defense
from robustdeq.deq.gradients import Gradient
from robustdeq.zoo import load
from robustdeq.zoo.factory import Factory, check_takes, ready
from robustdeq.zoo.registry import read_card

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Subject:
    """A model, and what is known of it.

    Attributes:
        model: in eval mode.
        name: for folders.
        early: the n of its early state, where it was chosen.
        trained: the threat model that it was trained in, where it is known.
    """

    model: nn.Module
    name: str
    early: int | None = None
    trained: ThreatModel | None = None


def check_named(network: str, weights: Path | None, arguments: Mapping[str, Any] | None, trust: bool = False) -> None:
    """Raise `InputError` unless there is such a model, as far as that is known without its code; nothing is built."""
    if is_import_path(network):
        require(weights is None or weights.is_file(), f"there are no weights at {weights}; give a file of tensors.")
        return
    read_card(network).check_trust(network, trust)
    require(weights is None, f"{network} has its weights in it; give --weights for FILE.py:NAME alone.")
    require(not arguments, f"{network} was made already; give --model.… for FILE.py:NAME alone.")


def opened(
    network: str,
    images: Images,
    weights: Path | None = None,
    arguments: Mapping[str, Any] | None = None,
    trust: bool = False,
) -> Subject:
    """A model for some images.

    Args:
        network: a weights file or the name of weights, or the import path of a factory, whose code then runs.
        images: what it is to classify.
        weights: a state dict for what the factory makes; None leaves it as made.
        arguments: of the factory.
        trust: let the code run that makes the model of a weights file.

    Raises:
        InputError: there is no such model, or it does not take such images.
    """
    if is_import_path(network):
        factory = Factory(network, arguments or {})
        found = Subject(factory.make() if weights is None else factory.loaded(weights), factory.name)
    else:
        card = read_card(network)
        found = Subject(load(network, trust), short(network), card.early, card.trained_within)
    check_takes(found.model, images, network)
    return replace(found, model=ready(found.model, images))


def defenses_at(paths: Mapping[str, str]) -> dict[str, Defense]:
    """The defenses behind import paths, by name: a `Defense`, or what makes a module x → logits around a model.

    Raises:
        InputError: one cannot be imported, or is neither.
    """
    return {name: _made(path, Defense, Around) for name, path in paths.items()}


def gradients_at(paths: Mapping[str, str]) -> dict[str, Gradient]:
    """The gradients behind import paths, by name; raises `InputError` where one is none."""
    return {name: _made(path, Gradient) for name, path in paths.items()}


def attacks_at(paths: Mapping[str, str], within: PGD) -> dict[str, Attack]:
    """The attacks behind import paths, by name; a class is made in the threat model of PGD, with its seed.

    Raises:
        InputError: one cannot be imported, is none, or cannot be made so.
    """
    shared = {name: getattr(within, name) for name in ("eps", "norm", "bounds", "seed")}
    return {name: _made(path, Attack, **shared) for name, path in paths.items()}


def _made(path: str, kind: type[Kind], adapt: Callable[[Any], Kind] | None = None, **settings: Any) -> Kind:
    """What an import path names, or what it makes, with these settings, where that is a class of the kind."""
    found = imported(path)
    if isinstance(found, type) and issubclass(found, kind):
        try:
            return found(**settings)
        except TypeError as error:
            given = f"with {', '.join(settings)}" if settings else "without arguments"
            raise InputError(f"{path} cannot be made {given} ({error}); name one that is made.") from error
    if isinstance(found, kind):
        return found
    require(adapt is not None and callable(found), f"{path} is no {kind.__name__}; name one, or a class of it.")
    assert adapt is not None
    return adapt(found)


def short(name: str) -> str:
    """What a folder calls weights or data."""
    path = Path(name).absolute()
    return path.parent.name if path.stem == "model" else path.stem
