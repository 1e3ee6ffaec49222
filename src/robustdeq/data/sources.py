"""One name or path, one dataset: `load`."""

import re
import textwrap
from pathlib import Path

import torch

from robustdeq.base.errors import InputError, require
from robustdeq.base.extras import extra
from robustdeq.base.imports import is_import_path
from robustdeq.data.arrays import from_function, from_npz
from robustdeq.data.decoding import regular
from robustdeq.data.images import Images
from robustdeq.data.local import by_role, from_folder, from_parquet
from robustdeq.data.splits import Splits, assemble, hold_out_stratified
from robustdeq.data.tables import ROWS_AT_ONCE, columns_of, images_from_table

HUB = {
    "cifar10": ("uoft-cs/cifar10", None),
    "cifar100": ("uoft-cs/cifar100", None),
    "svhn": ("ufldl-stanford/svhn", "cropped_digits"),
    "fashion_mnist": ("zalando-datasets/fashion_mnist", None),
}
EXACT = ("uoft-cs/cifar10 test", "cifar10/test-exact.parquet")
"""Sources of CIFAR-10's test images in their order and to the pixel, whose first ones our results are measured on."""
FIRST = (500, "13bbad9ac3528a46e40841dd55f12d5bbe997ce4495118cf0132410d091d8a7e")
"""How many those are, and their fingerprint."""
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def load(name_or_path: str | Path) -> Splits:
    """Load a dataset by name, from the Hugging Face hub, or from disk.

    Args:
        name_or_path: "digits" (scikit-learn's, offline), "cifar10", "cifar100", "svhn" or "fashion_mnist" (these names
            win over files of the same name), a parquet or `.npz` file, a folder (see `robustdeq.data.local`), a hub id
            "owner/name", or the import path of a function (see `robustdeq.data.arrays`).

    Returns:
        Splits; digits are 1,197 / 200 / 400 stratified images, everything else keeps the test split of its source and
        has its development split held out of the training images.

    Raises:
        InputError: nothing of that name can be found or reached, or what is found is not a set of labelled images, or
            it is called CIFAR-10's test images and begins with others.
    """
    found = _found(name_or_path)
    if found.test is not None and found.test.source in EXACT:
        _check_first(found.test)
    return found


def _check_first(images: Images) -> None:
    count, expected = FIRST
    fingerprint = images.head(count).fingerprint()
    require(
        fingerprint == expected,
        f"{images.source} does not begin with the first {count} test images of CIFAR-10 (SHA-256 {fingerprint}, not "
        f"{expected}): give a copy in their order and not encoded again.",
    )


def _found(name_or_path: str | Path) -> Splits:
    path = Path(name_or_path).expanduser()
    if name_or_path == "digits":
        return _digits()
    if isinstance(name_or_path, str) and name_or_path in HUB:
        return _from_hub(*HUB[name_or_path])
    if isinstance(name_or_path, str) and is_import_path(name_or_path):
        return from_function(name_or_path)
    if path.is_dir():
        return from_folder(path)
    if path.suffix == ".npz" and path.exists():
        return from_npz(regular(path))
    if path.exists():
        return from_parquet(regular(path))
    if (
        isinstance(name_or_path, str)
        and HUB_ID.fullmatch(name_or_path)
        and path.suffix != ".parquet"
        and not path.parent.is_dir()
    ):
        return _from_hub(name_or_path, None)
    known = ", ".join(("digits", *HUB))
    raise InputError(
        f"There is no data '{name_or_path}': give one of {known}, a Hugging Face id 'owner/name', "
        "the path of an existing parquet or .npz file or folder, or FILE.py:NAME of a function."
    )


def _digits() -> Splits:
    with extra("data"):
        from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    whole = Images(
        pixels=torch.tensor(pixels, dtype=torch.uint8).view(-1, 1, 8, 8),
        labels=torch.tensor(labels),
        classes=tuple(map(str, range(10))),
        source="digits of scikit-learn",
        scale=16,
    )
    return Splits(*hold_out_stratified(whole, 200, 400))


def _from_hub(hub_id: str, config: str | None) -> Splits:
    with extra("data"):
        import datasets
    try:
        found = datasets.load_dataset(hub_id, config)
    except Exception as error:
        reason = textwrap.shorten(str(error), 200).rstrip(".")
        raise InputError(
            f"Cannot load '{hub_id}' from the Hugging Face hub ({reason}): "
            "pass a local parquet file or folder, or --data digits."
        ) from error
    parts = {}
    for role, names in by_role({str(name): str(name) for name in found}).items():
        split = found[names[0]]
        source = f"{hub_id} {names[0]}"
        columns = columns_of(split.features, source)
        batches = split.select_columns(list(columns)).with_format("arrow").iter(ROWS_AT_ONCE)
        parts[role] = images_from_table(batches, len(split), columns, split.features, source)
    return assemble(**parts)
