"""What a command works on: weights by name or file, or what somebody's factory makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from robustdeq.base.errors import require
from robustdeq.base.threat import ThreatModel
from robustdeq.data import Images
from robustdeq.zoo import load
from robustdeq.zoo.factory import is_import_path, made_by
from robustdeq.zoo.registry import read_card

_TRIED = 8


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


def check_named(network: str, weights: Path | None, arguments: Mapping[str, Any] | None) -> None:
    """Raise `InputError` unless there is such a model, as far as that is known without its code; nothing is built."""
    if is_import_path(network):
        require(weights is None or weights.is_file(), f"there are no weights at {weights}; give a file of tensors.")
        return
    read_card(network)
    require(weights is None, f"{network} has its weights in it; give --weights for FILE.py:NAME alone.")
    require(not arguments, f"{network} was made already; give --model.… for FILE.py:NAME alone.")


def opened(network: str, weights: Path | None, arguments: Mapping[str, Any] | None, images: Images) -> Subject:
    """A model for some images.

    Args:
        network: a weights file or the name of weights, or the import path of a factory, whose code then runs.
        weights: a state dict for what the factory makes; None leaves it as made.
        arguments: of the factory.
        images: what it is to classify.

    Raises:
        InputError: there is no such model, or it does not take such images.
    """
    if is_import_path(network):
        model = made_by(network, arguments or {}, weights, images.head(_TRIED).tensors()[0])
        return Subject(model, network.rpartition(":")[2])
    model, card = load(network), read_card(network)
    model.check_images(images.pixels.shape[1:], len(images.classes), images.source)
    return Subject(model, short(network), card.early, card.trained_within)


def short(name: str) -> str:
    """What a folder calls weights or data."""
    path = Path(name)
    return path.parent.name if path.stem == "model" else path.stem
