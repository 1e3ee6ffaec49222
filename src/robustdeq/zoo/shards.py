"""Weights as files: `NAME.safetensors`, or a row of shards, `NAME-00001-of-00003.safetensors` and so on, with an index.

Rows are cut and indexed by `huggingface_hub`. The names alone say what belongs together; the index,
`NAME.safetensors.index.json`, is for other programs.
"""

from __future__ import annotations

import glob
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import huggingface_hub
from torch import Tensor

from robustdeq.base.errors import InputError, check_counts
from robustdeq.base.files import write_text
from robustdeq.base.tensors import write_tensors

SUFFIX = ".safetensors"
SHARD = re.compile(r"(?P<name>.+)-\d{5}-of-\d{5}\.safetensors")


def stem(path: Path) -> Path:
    """The path without the suffix of weights and the number of a shard; any other dot belongs to the name."""
    if shard := SHARD.fullmatch(path.name):
        return path.with_name(shard["name"])
    return path.with_suffix("") if path.suffix == SUFFIX else path


def row_names(name: str, count: int) -> list[str]:
    """What so many files of that name are called."""
    if count == 1:
        return [f"{name}{SUFFIX}"]
    return [f"{name}-{i:05}-of-{count:05}{SUFFIX}" for i in range(1, count + 1)]


def index_name(name: str) -> str:
    """What the index of a row of that name is called."""
    return f"{name}{SUFFIX}.index.json"


def split(weights: Mapping[str, Tensor], name: str, limit: int | None) -> dict[str, dict[str, Tensor]]:
    """The weights by the file that they go into, in order.

    Args:
        weights: by name.
        name: of the files.
        limit: the most bytes of tensors in a file; a larger tensor has a file of its own. None for one file.

    Raises:
        InputError: the limit is not positive.
    """
    check_counts(shard_bytes=1 if limit is None else limit)
    found = huggingface_hub.split_torch_state_dict_into_shards(dict(weights), max_shard_size=limit or sys.maxsize)
    groups = list(found.filename_to_tensors.values())
    files = zip(row_names(name, len(groups)), groups, strict=True)
    return {file: {tensor: weights[tensor] for tensor in group} for file, group in files}


def index(shards: Mapping[str, Mapping[str, Tensor]]) -> str:
    """The index of a row: which file each tensor lies in, and the bytes of all."""
    size = sum(tensor.nbytes for shard in shards.values() for tensor in shard.values())
    places = {tensor: file for file, shard in shards.items() for tensor in shard}
    return json.dumps({"metadata": {"total_size": size}, "weight_map": places}, indent=2) + "\n"


def write(
    folder: Path, name: str, shards: Mapping[str, Mapping[str, Tensor]], metadata: Mapping[str, str]
) -> list[Path]:
    """Write weights into a folder, each file with the metadata; the index of a row comes last."""
    written = [folder / file for file in shards]
    for file, shard in zip(written, shards.values(), strict=True):
        write_tensors(file, shard, metadata)
    if len(shards) > 1:
        written.append(folder / index_name(name))
        write_text(written[-1], index(shards))
    return written


def put(written: Sequence[Path], target: Path) -> None:
    """Move what `write` wrote to its place and remove what had the same name.

    A row of shards never mixes with an older one: that is removed first. A whole file goes before shards, so an older
    one is removed last.

    Args:
        written: the files, in order.
        target: the new path, as from `stem`.
    """
    whole, row = target.with_name(f"{target.name}{SUFFIX}"), [target.with_name(index_name(target.name)), *_row(target)]
    first, last = (row, [whole]) if len(written) > 1 else ([], row)
    for file in first:
        file.unlink(missing_ok=True)
    for file in written:
        file.replace(target.with_name(file.name))
    for file in last:
        file.unlink(missing_ok=True)


def files_at(path: Path) -> list[Path]:
    """The one file of that name, or its shards in order; none where there is neither.

    Args:
        path: as from `stem`.

    Raises:
        InputError: a shard is missing.
    """
    if not path.name:
        return []
    whole = path.with_name(f"{path.name}{SUFFIX}")
    if whole.is_file():
        return [whole]
    row = _row(path)
    counts = {int(file.stem[-5:]) for file in row}
    if row and counts != {len(row)}:
        raise InputError(f"{path} has {len(row)} shards where their names say {min(counts)}; download it again.")
    return row


def _row(path: Path) -> list[Path]:
    """All shards of that name, of whatever row."""
    number = 5 * "[0-9]"
    return sorted(path.parent.glob(f"{glob.escape(path.name)}-{number}-of-{number}{SUFFIX}"))
