"""Models by name or file: weights as safetensors, with what rebuilds the model in the file's metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from robustdeq import solvers
from robustdeq.errors import InputError
from robustdeq.files import replace_with
from robustdeq.models.deq import Unroll
from robustdeq.models.mdeq import MDEQ, MDEQConfig

_METADATA_KEY = "robustdeq"
_SOLVERS = {kind.__name__: kind for kind in (solvers.Broyden, solvers.Anderson, solvers.Picard)}
_WEIGHTS = Path(__file__).parent.parent / "weights"


@dataclass(frozen=True)
class Card:
    """What a weights file says about its model besides the weights.

    Attributes:
        config: the configuration of the MDEQ.
        num_classes: how many classes it tells apart.
        in_channels: the channels of its images.
        solver: the solver's name and settings.
        tail: the tail's settings.
        early: the n of the early-state defense, where it was chosen on a development set.
        provenance: how the weights came about.
    """

    config: Mapping[str, Any]
    num_classes: int
    in_channels: int
    solver: Mapping[str, Any]
    tail: Mapping[str, Any]
    early: int | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def build(self) -> MDEQ:
        """The model with fresh weights."""
        config: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in self.config.items()
        }
        model = MDEQ(MDEQConfig(**config), self.num_classes, self.in_channels)
        settings = dict(self.solver)
        model.solver = _SOLVERS[settings.pop("name")](**settings)
        model.tail = Unroll(**self.tail)
        return model


def card_of(model: MDEQ, early: int | None = None, provenance: Mapping[str, Any] | None = None) -> Card:
    """The card of a model as it is now, with what else is known of it."""
    return Card(
        config=asdict(model.config),
        num_classes=model.num_classes,
        in_channels=model.in_channels,
        solver={"name": type(model.solver).__name__, **asdict(model.solver)},
        tail=asdict(model.tail),
        early=early,
        provenance=provenance or {},
    )


def save(
    model: nn.Module, path: str | Path, early: int | None = None, provenance: Mapping[str, Any] | None = None
) -> None:
    """Write a model's weights, and what rebuilds it, to a safetensors file; whole or not at all.

    Args:
        model: a model made by `rd.models.mdeq`.
        path: the file, by convention `*.safetensors`.
        early: the n of its early-state defense, where it was chosen on a development set.
        provenance: how the weights came about; plain values.

    Raises:
        InputError: the model is of another kind.
    """
    if not isinstance(model, MDEQ):
        raise InputError(
            f"a {type(model).__name__} cannot be rebuilt from a file; save its state_dict with safetensors instead."
        )
    metadata = {_METADATA_KEY: json.dumps(asdict(card_of(model, early, provenance)))}
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    replace_with(Path(path), lambda temporary: save_file(weights, temporary, metadata=metadata))


def read_card(name_or_path: str | Path) -> Card:
    """What a weights file says about its model; raises `InputError` as `load` does."""
    path = locate(name_or_path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        return Card(**json.loads(metadata[_METADATA_KEY]))
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a readable safetensors file ({error}); train or download it again.") from error
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} does not say which model it holds; give a file that `robustdeq train` wrote."
        ) from error


def load(name_or_path: str | Path) -> MDEQ:
    """A model with its weights, in eval mode.

    Args:
        name_or_path: the name of packaged weights (`robustdeq models` lists them) or a file that `save` wrote.

    Raises:
        InputError: there is no such file, or it does not hold a model.
    """
    card = read_card(name_or_path)
    try:
        model = card.build()
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{name_or_path} holds a model that this version does not know ({error}); update robustdeq."
        ) from error
    try:
        model.load_state_dict(load_file(locate(name_or_path)))
    except RuntimeError as error:
        raise InputError(f"the weights in {name_or_path} do not fit the model they name; train it again.") from error
    return model.eval()


def locate(name_or_path: str | Path) -> Path:
    """The file behind a name or a path; raises `InputError` when there is none."""
    packaged = _WEIGHTS / f"{name_or_path}.safetensors"
    if packaged.is_file():
        return packaged
    path = Path(name_or_path)
    if not path.is_file():
        names = ", ".join(packaged_names()) or "none"
        raise InputError(f"there are no weights at {path}; give a file, or the name of packaged weights ({names}).")
    return path


def packaged_names() -> list[str]:
    """The names of the weights that come with the package."""
    return sorted(path.stem for path in _WEIGHTS.glob("*.safetensors"))
