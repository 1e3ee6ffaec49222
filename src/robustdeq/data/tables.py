"""From a table with a label column and images, as Hugging Face `datasets` stores it, or numbers, to `Images`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int64
from torch import Tensor

from robustdeq.base.errors import InputError, require
from robustdeq.data.decoding import decode
from robustdeq.data.images import Images

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Features

IMAGE_NAMES = ("image", "img")
LABEL_NAMES = ("label", "fine_label")
MOST_CLASSES = 100_000


def images_from_table(table: pa.Table, features: Features, source: str) -> Images:
    """Decode a table whose columns are found by their type, and by name where several have the right type.

    Args:
        table: one row per image; an image is a struct {bytes, path} or binary, a label is an integer.
        features: what `datasets` knows about the columns; a `ClassLabel` brings the class names.
        source: where the table comes from.

    Returns:
        All rows, in order; classes without names are called "0", "1", …. Where no column holds images, the columns of
        numbers beside `label` are features.

    Raises:
        InputError: a column is missing or ambiguous, the table is empty, or a row has no image or no valid label.
    """
    from datasets import ClassLabel

    numbers = [name for name in features if _is_number(features[name]) and name not in LABEL_NAMES]
    if numbers and not any(_is_image(feature) for feature in features.values()):
        return _numbers_of(table, features, numbers, source)
    image = _choose([name for name in features if _is_image(features[name])], IMAGE_NAMES, "image", source)
    label = _choose([name for name in features if _is_label(features[name])], LABEL_NAMES, "integer label", source)
    require(len(table) != 0, f"{source} holds no rows: give a file with images.")
    labels = _labels(table[label].to_pylist(), source)
    kind = features[label]
    classes = kind.names if isinstance(kind, ClassLabel) and kind.names else map(str, range(int(labels.max()) + 1))
    names = [f"{source} row {row}" for row in range(len(table))]
    encoded = [_encoded(value, name) for value, name in zip(table[image].to_pylist(), names, strict=True)]
    return Images(decode(encoded, names), labels, tuple(classes), source)


def _numbers_of(table: pa.Table, features: Features, numbers: Sequence[str], source: str) -> Images:
    """The rows of a table of numbers, a column of them for each feature, and of labels."""
    label = _choose([name for name in features if name in LABEL_NAMES], LABEL_NAMES, "label", source)
    for name in features:
        require(name in (label, *numbers), f"{source} has a column {name!r} of no numbers; keep numbers and a label.")
    require(len(table) != 0, f"{source} holds no rows: give a file with some.")
    labels = _labels(table[label].to_pylist(), source)
    rows = torch.stack([torch.tensor(table[name].to_numpy().astype("float32")) for name in numbers], dim=1)
    require(bool(rows.isfinite().all()), f"{source} has numbers that are missing or not finite; take these rows out.")
    return Images(rows, labels, tuple(map(str, range(int(labels.max()) + 1))), source, scale=1)


def _is_number(feature: object) -> bool:
    from datasets import Value

    return isinstance(feature, Value) and feature.dtype.startswith(("int", "uint", "float", "bool"))


def _is_image(feature: object) -> bool:
    from datasets import Image, Value

    if isinstance(feature, Value):
        return feature.dtype in ("binary", "large_binary")
    return isinstance(feature, Image) or (isinstance(feature, dict) and "bytes" in feature)


def _is_label(feature: object) -> bool:
    from datasets import ClassLabel, Value

    return isinstance(feature, ClassLabel) or (isinstance(feature, Value) and feature.dtype.startswith(("int", "uint")))


def _choose(candidates: Sequence[str], preferred: Iterable[str], kind: str, source: str) -> str:
    require(candidates, f"{source} has no {kind} column: add one called '{next(iter(preferred))}'.")
    fitting = candidates if len(candidates) == 1 else [name for name in preferred if name in candidates]
    listed = ", ".join(candidates)
    require(fitting, f"{source} has several {kind} columns ({listed}): call the right one '{next(iter(preferred))}'.")
    return fitting[0]


def _labels(values: Sequence[int | None], source: str) -> Int64[Tensor, "n"]:
    for row, value in enumerate(values):
        if value is None or not 0 <= value < MOST_CLASSES:
            raise InputError(
                f"{source} row {row} has the label {value}: remove unlabelled rows and number the classes from 0."
            )
    return torch.tensor(values)


def _encoded(value: Any, name: str) -> bytes | Path:
    if isinstance(value, dict):
        value = value["bytes"] or (value.get("path") and Path(value["path"]))
    require(value, f"{name} holds no image: remove the row.")
    return value
