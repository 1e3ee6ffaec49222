"""Images from local files: parquet as Hugging Face writes it, or folders with one subfolder per class."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from robustdeq.base.errors import InputError, require
from robustdeq.data.decoding import decode
from robustdeq.data.images import Images
from robustdeq.data.splits import Splits, assemble
from robustdeq.data.tables import images_from_table

SHARD = re.compile(r"(?P<stem>.+)-\d+-of-(?P<count>\d+)$")
SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
ROLES = {"train": "train", "val": "validation", "test": "test"}

Item = TypeVar("Item")


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
    files = sorted(path.glob("*.parquet"))
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
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_metadata(file).num_rows
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file} cannot be read as a parquet file: replace it with an intact one.") from error


def _read(files: Sequence[Path], source: str) -> Images:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Features

    try:
        table = pa.concat_tables([pq.ParquetFile(file).read() for file in files])
        features = Features.from_arrow_schema(table.schema)
    except Exception as error:
        raise InputError(f"{source} cannot be read as a parquet file: replace it with an intact one.") from error
    return images_from_table(table, features, source)


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
        entry.name: sorted(file for file in entry.iterdir() if file.suffix.lower() in SUFFIXES)
        for entry in _subfolders(root)
    }
    return {name: images for name, images in files.items() if images}


def _read_classes(files: Mapping[str, Sequence[Path]], classes: tuple[str, ...], source: str) -> Images:
    paths = [path for name in files for path in files[name]]
    labels = torch.tensor([classes.index(name) for name in files for _ in files[name]])
    return Images(decode(paths, [str(path) for path in paths]), labels, classes, source)
