"""Images from local files: parquet as Hugging Face writes it, or folders with one subfolder per class."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch

from robustdeq.base.errors import InputError, require
from robustdeq.base.extras import extra
from robustdeq.data.decoding import decode
from robustdeq.data.images import Images
from robustdeq.data.splits import Splits, assemble
from robustdeq.data.tables import ROWS_AT_ONCE, check_described, columns_of, images_from_table

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

SHARD = re.compile(r"(?P<stem>.+)-\d+-of-(?P<count>\d+)$")
SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
ROLES = {"train": "train", "val": "validation", "test": "test"}

Item = TypeVar("Item")
_BYTES_AT_ONCE = 2**30


def from_parquet(path: Path) -> Splits:
    """The images of one parquet file.

    Args:
        path: its name says which split it is: "test…" and "val…" are the test split, anything else the training split.

    Returns:
        Splits; a training file has its development split held out.

    Raises:
        InputError: the file cannot be read or used.
    """
    path = path.resolve()
    return assemble(**{role_of(path.stem) or "train": _read([path], f"{path.parent.name}/{path.name}")})


def from_folder(path: Path) -> Splits:
    """The images of a folder of parquet files, or of a folder with one subfolder per class.

    Parquet files "train…", "val…" and "test…" are the splits. Shards ("train-00000-of-00005") are joined; other files
    for one split are alternatives that may overlap, and the one with most rows is taken (`Images.source` names it).
    Class folders lie in `train`, `val` and `test` folders, or directly in `path`, which is then all training images.

    Args:
        path: the folder.

    Returns:
        Splits.

    Raises:
        InputError: there is nothing to read, or something that cannot be read or used.
    """
    path = path.resolve()
    files = sorted(file for file in path.glob("*.parquet") if file.is_file())
    return _from_parquets(path, files) if files else _from_class_folders(path)


def role_of(name: str) -> str | None:
    """Which split a name begins like: "train", "validation" or "test", or None."""
    return next((role for prefix, role in ROLES.items() if name.lower().startswith(prefix)), None)


def by_role(named: Mapping[str, Item]) -> dict[str, list[Item]]:
    """Items that have a role, grouped by it; where none has one, all of them are for training."""
    groups: dict[str, list[Item]] = {}
    for name, item in named.items():
        if role := role_of(name):
            groups.setdefault(role, []).append(item)
    return groups or {"train": list(named.values())}


def _from_parquets(folder: Path, files: Iterable[Path]) -> Splits:
    shards: dict[str, list[Path]] = {}
    for file in files:
        shards.setdefault(SHARD.sub(r"\g<stem>-*-of-\g<count>", file.stem), []).append(file)
    alternatives = by_role({name: (name, group) for name, group in shards.items()})
    parts = {}
    for role, options in alternatives.items():
        name, group = max(options, key=lambda option: sum(map(_rows, option[1])))
        source = f"{folder.name}/{name}.parquet"
        shard = SHARD.match(group[0].stem)
        if shard and len(group) != int(shard["count"]):
            raise InputError(f"{source} has only {len(group)} of its {int(shard['count'])} shards: add the others.")
        parts[role] = _read(group, source)
    return assemble(**parts)


def _rows(file: Path) -> int:
    with extra("data"):
        import pyarrow.parquet as pq
    with _readable(str(file)):
        return pq.read_metadata(file).num_rows


def _read(files: Sequence[Path], source: str) -> Images:
    """The images of parquet files with the same columns; columns that hold no images and no labels are not read."""
    with extra("data"):
        import pyarrow.parquet as pq
        from datasets import Features
    with _readable(source):
        opened = [pq.ParquetFile(file) for file in files]
        schemas = [file.schema_arrow for file in opened]
        for schema in schemas:
            check_described(schema)
        features = Features.from_arrow_schema(schemas[0])
        for index in map(str, (schemas[0].pandas_metadata or {}).get("index_columns", ())):
            features.pop(index, None)
        same = all(schema.equals(schemas[0]) for schema in schemas)
    require(same, f"{source} has files with different columns: give all of them the same.")
    columns = columns_of(features, source)
    rows = sum(file.metadata.num_rows for file in opened)
    at_once = max(1, min(ROWS_AT_ONCE, _BYTES_AT_ONCE // max(1, *map(_longest, opened))))

    def batches() -> Iterator[pa.RecordBatch]:
        with _readable(source):
            for file in opened:
                yield from file.iter_batches(at_once, columns=list(columns), use_threads=False)

    return images_from_table(batches(), rows, columns, features, source)


def _longest(file: pq.ParquetFile) -> int:
    """The bytes of the largest part of a file when it is unpacked; no value is longer."""
    groups = map(file.metadata.row_group, range(file.num_row_groups))
    return max((group.total_byte_size for group in groups), default=0)


@contextmanager
def _readable(source: str) -> Iterator[None]:
    """Tell what goes wrong in reading a parquet file as an `InputError`."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{source} cannot be read as a parquet file: replace it with an intact one.") from error


def _from_class_folders(folder: Path) -> Splits:
    roots = {entry.name: entry for entry in _subfolders(folder) if role_of(entry.name) and _subfolders(entry)}
    splits = {role: alternatives[0] for role, alternatives in by_role(roots or {"train": folder}).items()}
    found = {role: files for role, root in splits.items() if (files := _files_by_class(root))}
    classes = tuple(sorted({name for files in found.values() for name in files}))
    require(found, f"{folder} holds neither *.parquet files nor <class>/*.png images: point to the folder that does.")
    return assemble(
        **{
            role: _read_classes(files, classes, f"{splits[role].parent.name}/{splits[role].name}")
            for role, files in found.items()
        }
    )


def _subfolders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _files_by_class(root: Path) -> dict[str, list[Path]]:
    files = {
        entry.name: sorted(file for file in entry.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
        for entry in _subfolders(root)
    }
    return {name: images for name, images in files.items() if images}


def _read_classes(files: Mapping[str, Sequence[Path]], classes: tuple[str, ...], source: str) -> Images:
    paths = [path for name in files for path in files[name]]
    labels = torch.tensor([classes.index(name) for name in files for _ in files[name]])
    return Images(decode(paths, len(paths), lambda row: str(paths[row])), labels, classes, source)
