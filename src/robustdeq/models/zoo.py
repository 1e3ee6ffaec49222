"""Models by name or file: weights as safetensors, with what rebuilds the model in the file's metadata.

A file too big for one is a row of shards, `NAME-00001-of-00003.safetensors` and so on, each with the same metadata.
"""

from __future__ import annotations

import glob
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from robustdeq import solvers
from robustdeq.errors import InputError
from robustdeq.files import write_tensors
from robustdeq.models.deq import DEQ, Unroll
from robustdeq.models.mdeq import MDEQ, MDEQConfig
from robustdeq.models.resnet import ResNet, ResNetConfig, WideResNet, WideResNetConfig

Model = MDEQ | ResNet | WideResNet

_METADATA_KEY = "robustdeq"
_SOLVERS = {kind.__name__: kind for kind in (solvers.Broyden, solvers.Anderson, solvers.Picard)}
_ARCHITECTURES: Mapping[str, tuple[Callable[..., Model], Callable[..., Any]]] = {
    kind.__name__: (kind, config)
    for kind, config in ((MDEQ, MDEQConfig), (ResNet, ResNetConfig), (WideResNet, WideResNetConfig))
}
_FOLDERS = (Path(__file__).parents[1] / "weights", Path(__file__).parents[3] / "weights")
_SHARD = re.compile(r"(?P<name>.+)-\d{5}-of-(?P<count>\d{5})\.safetensors")


@dataclass(frozen=True)
class Card:
    """What a weights file says about its model besides the weights.

    Attributes:
        config: the configuration of the network.
        num_classes: how many classes it tells apart.
        in_channels: the channels of its images.
        solver: the solver's name and settings; None for an explicit network.
        tail: the tail's settings; None for an explicit network.
        early: the n of the early-state defense, where it was chosen on a development set.
        provenance: how the weights came about.
        architecture: `"MDEQ"`, `"ResNet"` or `"WideResNet"`.
    """

    config: Mapping[str, Any]
    num_classes: int
    in_channels: int
    solver: Mapping[str, Any] | None = None
    tail: Mapping[str, Any] | None = None
    early: int | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    architecture: str = MDEQ.__name__

    def build(self) -> Model:
        """The model with fresh weights; raises `KeyError`, `TypeError` or `ValueError` where it is none of ours."""
        kind, config_kind = _ARCHITECTURES[self.architecture]
        config: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in self.config.items()
        }
        model = kind(config_kind(**config), self.num_classes, self.in_channels)
        if isinstance(model, DEQ):
            if self.solver is None or self.tail is None:
                raise ValueError(f"an {self.architecture} without a solver or a tail")
            settings = dict(self.solver)
            model.solver = _SOLVERS[settings.pop("name")](**settings)
            model.tail = Unroll(**self.tail)
        return model


def card_of(model: Model, early: int | None = None, provenance: Mapping[str, Any] | None = None) -> Card:
    """The card of a model as it is now, with what else is known of it."""
    return Card(
        config=asdict(model.config),
        num_classes=model.num_classes,
        in_channels=model.in_channels,
        **_iteration(model),
        early=early,
        provenance=provenance or {},
        architecture=type(model).__name__,
    )


def fingerprint(model: nn.Module) -> str:
    """SHA-256, in hexadecimal, of everything that decides what a model computes in eval mode.

    Args:
        model: any module; the names, types, shapes and contents of its state dict count, the configuration of a
            model of this package, and the solver and tail of a DEQ. Device and memory format do not.
    """
    settings = asdict(card_of(model)) if isinstance(model, Model) else _iteration(model)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _iteration(model: nn.Module) -> dict[str, Any]:
    """The solver and tail of a DEQ."""
    if not isinstance(model, DEQ):
        return {}
    return {"solver": {"name": type(model.solver).__name__, **asdict(model.solver)}, "tail": asdict(model.tail)}


def save(
    model: nn.Module, path: str | Path, early: int | None = None, provenance: Mapping[str, Any] | None = None
) -> None:
    """Write a model's weights, and what rebuilds it, to a safetensors file; whole or not at all.

    Args:
        model: a model made by `rd.models.mdeq`, `resnet18` or `wide_resnet34_10`, or converted from a checkpoint.
        path: the file, by convention `*.safetensors`.
        early: the n of its early-state defense, where it was chosen on a development set.
        provenance: how the weights came about; plain values.

    Raises:
        InputError: the model is of another kind.
        OSError: the file cannot be written.
    """
    if not isinstance(model, Model):
        raise InputError(
            f"a {type(model).__name__} cannot be rebuilt from a file; save its state_dict with safetensors instead."
        )
    metadata = {_METADATA_KEY: json.dumps(asdict(card_of(model, early, provenance)))}
    write_tensors(Path(path), model.state_dict(), metadata)


def read_card(name_or_path: str | Path) -> Card:
    """What a weights file says about its model; raises `InputError` as `load` does."""
    path = locate(name_or_path)[0]
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        return Card(**json.loads(metadata[_METADATA_KEY]))
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} does not say which model it holds; give a file that `robustdeq train` wrote."
        ) from error


def load(name_or_path: str | Path) -> Model:
    """A model with its weights, in eval mode.

    Args:
        name_or_path: the name of weights (`robustdeq models` lists them) or a file that `save` wrote; any shard stands
            for the whole row.

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
    weights: dict[str, Tensor] = {}
    for path in locate(name_or_path):
        try:
            weights |= load_file(path)
        except (SafetensorError, OSError) as error:
            raise _unreadable(path, error) from error
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(f"the weights in {name_or_path} do not fit the model they name; train it again.") from error
    return model.eval()


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} is not a readable safetensors file ({error}); train or download it again.")


def locate(name_or_path: str | Path) -> list[Path]:
    """The file behind a name or a path, or its shards in order.

    Args:
        name_or_path: the name of weights that come with the package or lie in the `weights` folder of a checkout of
            its repository, or a file, which may be one shard of several.

    Raises:
        InputError: there is no such file, or a shard is missing.
    """
    name = str(name_or_path)
    for folder in _FOLDERS:
        if files := _files(folder / name):
            return files
    path = Path(name)
    if not path.is_file():
        names = ", ".join(packaged_names()) or "none"
        raise InputError(f"there are no weights at {path}; give a file, or the name of packaged weights ({names}).")
    shard = _SHARD.fullmatch(path.name)
    return _files(path.with_name(shard["name"])) if shard else [path]


def packaged_names() -> list[str]:
    """The names of the weights that come with the package or its repository."""
    files = (file for folder in _FOLDERS for file in folder.glob("*.safetensors"))
    return sorted({shard["name"] if (shard := _SHARD.fullmatch(file.name)) else file.stem for file in files})


def _files(stem: Path) -> list[Path]:
    """The one file of that name, or its shards; none where there is neither."""
    whole = stem.with_name(f"{stem.name}.safetensors")
    if whole.is_file():
        return [whole]
    found = sorted(stem.parent.glob(f"{glob.escape(stem.name)}-*-of-*.safetensors"))
    shards = [(file, shard) for file in found if (shard := _SHARD.fullmatch(file.name)) and shard["name"] == stem.name]
    if any(int(shard["count"]) != len(shards) for _, shard in shards):
        raise InputError(
            f"{stem} has {len(shards)} shards where their names say {int(shards[0][1]['count'])}; download it again."
        )
    return [file for file, _ in shards]
