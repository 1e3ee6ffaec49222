"""From a table with a label column and images, as Hugging Face `datasets` stores it, or numbers, to `Images`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from robustdeq.base.errors import InputError, require
from robustdeq.data.decoding import check_bytes, decode
from robustdeq.data.images import Images

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Features

IMAGE_NAMES = ("image", "img")
LABEL_NAMES = ("label", "fine_label")
MOST_CLASSES = 100_000
MOST_ROWS = 10_000_000
ROWS_AT_ONCE = 1024


def check_described(schema: pa.Schema) -> None:
    """Raise `ValueError` where what a file says of its classes would be looked up elsewhere, or made up."""

    def look(found: dict[str, Any]) -> dict[str, Any]:
        if found.get("names_file") or (found.get("num_classes") or 0) > MOST_CLASSES:
            raise ValueError("it names no classes")
        return found

    json.loads((schema.metadata or {}).get(b"huggingface", b"{}"), object_hook=look)


def columns_of(features: Mapping[str, Any], source: str) -> tuple[str, ...]:
    """The columns of a table that are read: the label, then the one of images, or all of numbers.

    They are found by their type, and by name where several have the right type. The index of a pandas frame is none.

    Args:
        features: what `datasets` knows about the columns.
        source: where the table comes from.

    Raises:
        InputError: a column is missing or ambiguous.
    """
    features = {name: kind for name, kind in features.items() if not name.startswith("__index_level_")}
    images = [name for name in features if _is_image(features[name])]
    numbers = [name for name in features if _is_number(features[name]) and name not in LABEL_NAMES]
    if images or not numbers:
        image = _choose(images, IMAGE_NAMES, "image", source)
        labels = [name for name in features if _is_label(features[name])]
        return _choose(labels, LABEL_NAMES, "integer label", source), image
    label = _choose([name for name in features if name in LABEL_NAMES], LABEL_NAMES, "label", source)
    for name in features:
        require(name in (label, *numbers), f"{source} has a column {name!r} of no numbers; keep numbers and a label.")
    return label, *numbers


def images_from_table(
    batches: Iterable[pa.RecordBatch | pa.Table], rows: int, columns: Sequence[str], features: Features, source: str
) -> Images:
    """Decode a table, a batch of rows after the other.

    Args:
        batches: one row per image; an image is a struct {bytes, path} or binary, a label is an integer.
        rows: how many there are in all.
        columns: those of `columns_of`.
        features: what `datasets` knows about the columns; a `ClassLabel` brings the class names.
        source: where the table comes from.

    Returns:
        All rows, in order; classes without names are called "0", "1", …. Where no column holds images, the columns of
        numbers beside `label` are features.

    Raises:
        InputError: the table is empty or too large, or a row has no image or no valid label.
    """
    from datasets import ClassLabel

    label, *others = columns
    require(rows != 0, f"{source} holds no rows: give a file with images.")
    require(rows <= MOST_ROWS, f"{source} has {rows:,} rows, more than {MOST_ROWS:,}: give a part of them.")
    found: list[int] = []

    def labelled() -> Iterator[pa.RecordBatch | pa.Table]:
        for batch in batches:
            found.extend(_labels(batch[label].to_pylist(), len(found), source))
            yield batch

    images = _is_image(features[others[0]])
    samples = _pixels(labelled(), rows, others[0], source) if images else _numbers(labelled(), rows, others, source)
    require(len(found) == rows, f"{source} has {len(found)} rows and says {rows}: replace it with an intact one.")
    kind = features[label]
    classes = kind.names if isinstance(kind, ClassLabel) and kind.names else map(str, range(max(found) + 1))
    return Images(samples, torch.tensor(found), tuple(map(str, classes)), source, scale=255 if images else 1)


def _pixels(batches: Iterable[pa.RecordBatch | pa.Table], rows: int, image: str, source: str) -> Tensor:
    """The images of a column."""

    def name(row: int) -> str:
        return f"{source} row {row}"

    values = (value.as_py() for batch in batches for value in batch[image])
    return decode((_encoded(value, name(row)) for row, value in enumerate(values)), rows, name)


def _numbers(batches: Iterable[pa.RecordBatch | pa.Table], rows: int, names: Sequence[str], source: str) -> Tensor:
    """The columns of numbers, one for each feature."""
    check_bytes(4 * rows * len(names), source)
    parts = [
        torch.stack([torch.tensor(batch[name].to_numpy(zero_copy_only=False).astype("float32")) for name in names], 1)
        for batch in batches
    ]
    samples = torch.cat([torch.empty(0, len(names)), *parts])
    require(bool(samples.isfinite().all()), f"{source} has numbers that are missing or not finite; take them out.")
    return samples


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


def _labels(values: Sequence[object], start: int, source: str) -> Iterator[int]:
    for row, value in enumerate(values, start):
        if not isinstance(value, int) or not 0 <= value < MOST_CLASSES:
            raise InputError(
                f"{source} row {row} has the label {value}: remove unlabelled rows and number the classes from 0."
            )
        yield value


def _encoded(value: Any, name: str) -> bytes | Path:
    if isinstance(value, dict):
        content, path = value.get("bytes"), value.get("path")
        value = Path(path) if not content and path and isinstance(path, str) else content
    require(value, f"{name} holds no image: remove the row.")
    require(isinstance(value, bytes | Path), f"{name} holds something else than an image: remove the row.")
    return value
