"""Models by name or file: weights as safetensors, with what rebuilds the model in the file's metadata.

Weights too big for one file are a row of shards (`zoo.shards`), each with the same metadata. Beside the weights lies
`NAME.md`, the model card. Weights on the Hugging Face Hub have names too, `hf://OWNER/NAME` (`zoo.hub`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, overload

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from robustdeq.base.errors import InputError, require
from robustdeq.base.files import file_digest, write_text
from robustdeq.base.plain import from_json, made_of
from robustdeq.base.tensors import read_sealed
from robustdeq.base.threat import ThreatModel
from robustdeq.deq.model import DEQ
from robustdeq.zoo.architecture import ZooModel
from robustdeq.zoo.card import CARD_START, Card, card_markdown, card_of, iteration, stored_type, unlike
from robustdeq.zoo.factory import Factory
from robustdeq.zoo.hub import downloaded, is_reference
from robustdeq.zoo.outline import outlined
from robustdeq.zoo.shards import SHARD, SUFFIX, files_at, put, split, stem, write

_METADATA_KEY = "robustdeq"
_STORED_TYPES = (torch.float16, torch.bfloat16, torch.float32)
_FOLDERS = (Path(__file__).parents[1] / "weights", Path(__file__).parents[3] / "weights")


def save(
    model: nn.Module,
    path: str | Path,
    early: int | None = None,
    provenance: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    shard_bytes: int | None = None,
    threat: ThreatModel | None = None,
    factory: str | Factory | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> None:
    """Write a model's weights with what rebuilds it, and its model card beside them; whole or not at all.

    Everything is written before the first file is put in its place; the weights come first, the card last. What an
    earlier `save` left under the same name, whole or in shards, is gone afterwards.

    Args:
        model: a model of the zoo: made by `rd.models.mdeq`, `resnet18` or `wide_resnet34_10`, built from an
            architecture in `zoo.presets.MODELS`, or converted from a checkpoint; or any module that a factory makes.
        path: `NAME.safetensors`, or `NAME` alone; the card is `NAME.md`.
        early: the n of its early-state defense, where it was chosen on a development set.
        provenance: how the weights came about; plain values.
        dtype: the type that floating-point weights are stored in, `torch.float16`, `bfloat16` or `float32`; `load`
            gives float32 of them. None stores them as they are; `load` gives float64 where all are, else float32.
        shard_bytes: the most bytes of tensors in a file; what does not fit into one is a row of shards with an index,
            in which a larger tensor has a file of its own. None for one file of any size.
        threat: the threat model that the weights were trained in, in which they are then evaluated by default.
        factory: for a model that is not of the zoo, `FILE.py:NAME` or `package.module:NAME` of what makes it; it is
            run once, to see that it does.
        arguments: of the factory, by name; plain values.

    Raises:
        InputError: the model is of another kind, is not what its settings or the factory make, or has no such early
            state, the weights do not fit into the type or are no tensors, shard_bytes is not positive, or the name is
            that of a shard or its card would replace another text.
        OSError: a file cannot be written.
    """
    if early is not None:
        if not isinstance(model, DEQ):
            raise InputError(f"a {type(model).__name__} has no state {early}; leave early out.")
        model.check_state(early)
    target = stem(Path(path))
    text_path = target.with_name(f"{target.name}.md")
    _check_names(Path(path), text_path)
    maker = Factory(factory, arguments or {}) if isinstance(factory, str) else factory
    card = card_of(model, early, provenance, threat, maker)
    metadata = {_METADATA_KEY: _described(card)}
    loaded, weights = as_loaded(model, card, dtype)
    shards = split(weights, target.name, shard_bytes)
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as name:
        folder = Path(name)
        written = write(folder, target.name, shards, metadata)
        digests = {file: file_digest(folder / file) for file in shards}
        text = folder / text_path.name
        write_text(text, card_markdown(card, loaded, target.name, digests, stored_type(weights)))
        text_path.unlink(missing_ok=True)
        put(written, target)
        text.replace(text_path)


def _check_names(path: Path, card: Path) -> None:
    """Raise `InputError` where weights at that path could not be found again, or their card would destroy a text."""
    if SHARD.fullmatch(path.name):
        raise InputError(f"{path} is the name of a shard; save to {stem(path)}{SUFFIX}.")
    if card.is_file() and not card.read_bytes().startswith(CARD_START.encode()):
        raise InputError(f"{card} is no model card of ours and would be replaced by one; save under another name.")


def as_loaded(model: nn.Module, card: Card, dtype: torch.dtype | None = None) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """The model that `load` would give, in eval mode, and its weights as they would be stored.

    Args:
        model: the model.
        card: what its weights file would say of it.
        dtype: as for `save`.

    Raises:
        InputError: it would be another model.
    """
    weights = _stored(model.state_dict(), dtype)
    loaded = _rebuilt(card, weights)
    if iteration(loaded) != iteration(model):
        raise InputError(f"{card.factory} makes another solver or tail; give the arguments that make this model's.")
    _check_alike(model, weights, loaded, card)
    return loaded, weights


def _check_alike(model: nn.Module, weights: Mapping[str, Tensor], loaded: nn.Module, card: Card) -> None:
    """Raise `InputError` where `load` would give other parts, or other weights or less precise ones than are stored."""
    for name in unlike(model, loaded)[:1]:
        maker = f"the settings of this {card.architecture} make" if card.factory is None else f"{card.factory} makes"
        raise InputError(f"{name or 'the model'} is not what {maker}; save it with a factory that makes it so.")
    kept = loaded.state_dict()
    for name, tensor in weights.items():
        if tensor.dtype == torch.float64 != kept[name].dtype:
            raise InputError(f"{name} is in torch.float64 and other weights are not; convert all to one type.")
        if not torch.equal(kept[name], tensor.to(kept[name])) and tensor.isfinite().all():
            raise InputError(f"{name} shares its values with other weights where it is made anew; share them here too.")


def _stored(weights: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """The weights in the type that they are stored in."""
    for name, value in weights.items():
        if not isinstance(value, Tensor):
            raise InputError(f"{name} is a {type(value).__name__}, and a weights file holds tensors; make it a buffer.")
    found = any(tensor.is_floating_point() for tensor in weights.values())
    require(found, "the model has no weights, of which a weights file is made; give its code instead.")
    if dtype is None:
        return dict(weights)
    require(dtype in _STORED_TYPES, f"dtype is {dtype}; choose one of {', '.join(map(str, _STORED_TYPES))}.")
    stored = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    for name, tensor in weights.items():
        if tensor.isfinite().all() and not stored[name].isfinite().all():
            raise InputError(f"{name} has values beyond the range of {dtype}; store it as torch.bfloat16.")
    return stored


def _described(card: Card) -> str:
    try:
        return json.dumps(asdict(card))
    except TypeError as error:
        raise InputError(f"what is to be kept with the weights has more than plain values in it ({error}).") from error


def _rebuilt(card: Card, weights: Mapping[str, Tensor]) -> nn.Module:
    """The model that `load` will give; no random number is drawn from the generator of others."""
    try:
        with torch.random.fork_rng(devices=[]):
            model = _in_type_of(weights, card.build().eval())
        model.load_state_dict(weights)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"this {card.architecture} could not be rebuilt from a file ({error}); "
            "save it with the modules and the kind of solver that it was made with."
        ) from error
    return model


def _in_type_of(weights: Mapping[str, Tensor], model: nn.Module) -> nn.Module:
    """The model in double precision where all of its weights are, else as it was made."""
    doubles = {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()} == {torch.float64}
    return model.double() if doubles else model


def read_card(name_or_path: str | Path) -> Card:
    """What a weights file says about its model; raises `InputError` as `load` does."""
    path = locate(name_or_path)[0]
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        card = made_of(Card, from_json(metadata[_METADATA_KEY]))
        card.trained_within  # noqa: B018
        return card
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} does not say which model it holds; give a file that `robustdeq train` wrote."
        ) from error


@overload
def load(name_or_path: str | Path, trust: Literal[False] = False) -> ZooModel: ...
@overload
def load(name_or_path: str | Path, trust: bool) -> nn.Module: ...
def load(name_or_path: str | Path, trust: bool = False) -> nn.Module:
    """A model with its weights, in eval mode; no random number is drawn from the generator of others.

    Args:
        name_or_path: the name of weights (`robustdeq models` lists them), `hf://OWNER/NAME` on the Hugging Face Hub,
            `hf://OWNER/NAME@REVISION/FILE.safetensors` in full, or a file that `save` wrote; any shard stands for the
            whole row.
        trust: let the code of others run, where a factory of theirs makes the model; it is looked for in the current
            folder and beside the weights.

    Raises:
        InputError: there is no such file, the Hub does not give it, it does not hold a model, or it needs code that is
            not trusted.
    """
    card = read_card(name_or_path)
    card.check_trust(str(name_or_path), trust)
    weights = read_weights(name_or_path)
    if card.factory is None:
        with _known(name_or_path), outlined(weights):
            outline = card.build()
        _fill(outline, weights, name_or_path, assign=True)
    with _known(name_or_path), torch.random.fork_rng(devices=[]):
        model = _in_type_of(weights, card.build(locate(name_or_path)[0].parent))
    _fill(model, weights, name_or_path)
    return model.eval()


@contextmanager
def _known(name: str | Path) -> Iterator[None]:
    """Tell what is wrong with a card as an `InputError`."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise InputError(
            f"{name} holds a model that this version does not know ({error}); update robustdeq."
        ) from error


def _fill(model: nn.Module, weights: Mapping[str, Tensor], name: str | Path, assign: bool = False) -> None:
    try:
        model.load_state_dict(weights, assign=assign)
    except RuntimeError as error:
        raise InputError(f"the weights in {name} do not fit the model they name; train it again.") from error


def read_weights(name_or_path: str | Path) -> dict[str, Tensor]:
    """The tensors alone, of one file or of all shards; raises `InputError` as `load` does."""
    weights: dict[str, Tensor] = {}
    for path in locate(name_or_path):
        try:
            weights |= read_sealed(path)[0]
        except (SafetensorError, OSError) as error:
            raise _unreadable(path, error) from error
    return weights


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} is not a readable safetensors file ({error}); train or download it again.")


def locate(name_or_path: str | Path) -> list[Path]:
    """The file behind a name or a path, or its shards in order.

    Args:
        name_or_path: the name of weights that come with the package or lie in the `weights` folder of a checkout of
            its repository, `hf://OWNER/NAME` on the Hugging Face Hub (see `zoo.hub`), or a file with or without its
            suffix, which may be one shard of several.

    Raises:
        InputError: there is no such file, a shard is missing, or the Hub does not give it.
    """
    name = str(name_or_path)
    if is_reference(name):
        return list(downloaded(name))
    for folder in (*_FOLDERS, Path()):
        if files := files_at(folder / name):
            return files
    path = Path(name)
    if path.is_file() and not SHARD.fullmatch(path.name):
        return [path]
    files = files_at(stem(path))
    if not files:
        names = ", ".join(packaged_names()) or "none"
        raise InputError(f"there are no weights at {path}; give a file, or the name of packaged weights ({names}).")
    return files


def packaged_names() -> list[str]:
    """The names of the weights that come with the package or its repository."""
    return sorted({stem(file).name for folder in _FOLDERS for file in folder.glob(f"*{SUFFIX}")})
