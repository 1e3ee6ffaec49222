"""Data as arrays: from an `.npz` file, or from somebody's function."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import torch

from robustdeq.base.errors import InputError, require
from robustdeq.base.imports import imported, reason
from robustdeq.data.decoding import check_bytes
from robustdeq.data.images import Images
from robustdeq.data.splits import Splits, assemble
from robustdeq.data.tables import MOST_CLASSES

_PARTS = {"train": "train", "val": "validation", "test": "test"}
_NAMES = ("classes", *(f"{array}_{part}" for array in "xy" for part in _PARTS))


def from_arrays(arrays: Mapping[str, Any], source: str) -> Splits:
    """The data in arrays, by their names.

    Args:
        arrays: `x_train` and `y_train`, `x_val` and `y_val`, `x_test` and `y_test`, or some of these pairs. x is
            (n, channels, height, width) or (n, height, width), integers 0..255 in all parts, for images; or (n, …),
            numbers that are taken as they are, for features. y is (n,), integers from 0. `classes`, if it is there,
            names the classes.
        source: where they come from.

    Raises:
        InputError: there is no such pair, or what is in it are no samples with labels.
    """
    read = {name: _array(arrays[name], f"{source} {name}") for name in _NAMES if name in arrays}
    present = [part for part in _PARTS if {f"x_{part}", f"y_{part}"} & read.keys()]
    require(present, f"{source} has no x_test and y_test, nor x_train and y_train; give arrays of these names.")
    for part in present:
        require({f"x_{part}", f"y_{part}"} <= read.keys(), f"{source} has x_{part} or y_{part} alone; give both.")
    labels = {part: _labels(read[f"y_{part}"], f"{source} {part}") for part in present}
    count = max(int(y.max()) for y in labels.values()) + 1
    names = tuple(map(str, np.atleast_1d(read["classes"]))) if "classes" in read else tuple(map(str, range(count)))
    for part in present:
        _check_samples(read[f"x_{part}"], labels[part], f"{source} {part}")
    made = _pictures if all(_are_bytes(read[f"x_{part}"]) for part in present) else _features
    samples = {part: made(read[f"x_{part}"], labels[part], names, f"{source} {part}") for part in present}
    return assemble(**{_PARTS[part]: images for part, images in samples.items()})


def _array(given: Any, source: str) -> Any:
    try:
        return np.asarray(given)
    except Exception as error:
        raise InputError(f"{source} is no array ({reason(error)}); give numbers in one shape.") from error


def _labels(y: Any, source: str) -> torch.Tensor:
    if y.ndim != 1 or len(y) == 0 or y.dtype.kind not in "iu":
        raise InputError(f"{source} has labels of shape {y.shape} and type {y.dtype}; give one integer per sample.")
    require(y.max() < MOST_CLASSES, f"{source} has the label {y.max()}; number the classes from 0.")
    return torch.from_numpy(y.astype(np.int64))


def _check_samples(x: Any, labels: torch.Tensor, source: str) -> None:
    if x.ndim < 2 or x.dtype.kind not in "iuf" or 0 in x.shape[1:]:
        raise InputError(f"{source} has samples of shape {x.shape} and type {x.dtype}; give numbers, (n, …).")
    if len(x) != len(labels):
        raise InputError(f"{source} has {len(x)} samples but {len(labels)} labels: give one label per sample.")


def _are_bytes(x: Any) -> bool:
    return x.dtype.kind in "iu" and x.ndim in (3, 4) and bool(x.min() >= 0 and x.max() <= 255)


def _pictures(x: Any, labels: torch.Tensor, classes: tuple[str, ...], source: str) -> Images:
    pixels = torch.from_numpy(x.astype(np.uint8))
    return Images(pixels if x.ndim == 4 else pixels[:, None], labels, classes, source)


def _features(x: Any, labels: torch.Tensor, classes: tuple[str, ...], source: str) -> Images:
    features = torch.from_numpy(x.astype(np.float32))
    require(bool(features.isfinite().all()), f"{source} has features that are not finite; take these samples out.")
    return Images(features, labels, classes, source, scale=1)


def from_npz(path: Path) -> Splits:
    """The arrays of an `.npz` file, read without running anything in it; raises `InputError` as `from_arrays`."""
    try:
        with ZipFile(path) as file:
            size = sum(member.file_size for member in file.infolist() if Path(member.filename).stem in _NAMES)
        check_bytes(size, f"the arrays in {path}")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in _NAMES if name in file.files}
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path} cannot be read as arrays ({reason(error)}); write it by numpy.savez.") from error
    return from_arrays(arrays, path.name)


def from_function(path: str) -> Splits:
    """What a function returns by its import path, whose code runs: `Splits`, or arrays as `from_arrays` takes them.

    Raises:
        InputError: it cannot be imported, fails, or returns something else.
    """
    function = imported(path)
    try:
        found = function()
    except Exception as error:
        raise InputError(f"{path} gives no data ({reason(error)}).") from error
    if isinstance(found, Splits):
        return found
    if isinstance(found, Mapping):
        return from_arrays(found, path)
    raise InputError(f"{path} returns a {type(found).__name__}; make it return rd.data.Splits, or arrays by name.")
