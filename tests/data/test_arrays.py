"""Data as arrays: `.npz`, tables of numbers, and functions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustdeq.base.errors import InputError
from robustdeq.data import Batches, RandomCropFlip, load
from robustdeq.data.arrays import from_arrays

RANDOM = np.random.default_rng(0)
FEATURES = RANDOM.normal(scale=5, size=(40, 3))
LABELS = np.arange(40) % 2
PICTURES = RANDOM.integers(0, 256, (40, 5, 6), dtype=np.uint8)


def test_features_are_taken_as_they_are(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", x_test=FEATURES, y_test=LABELS, classes=np.array(["no", "yes"]))
    test = load(tmp_path / "own.npz").require("test")
    x, y = test.tensors()
    assert torch.equal(x, torch.tensor(FEATURES, dtype=torch.float32))
    assert y.tolist() == LABELS.tolist()
    assert test.classes == ("no", "yes")
    assert test.source == "own.npz test"


def test_bytes_are_images(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "own.npz", x_train=PICTURES, y_train=LABELS, x_val=PICTURES, y_val=LABELS)
    splits = load(str(tmp_path / "own.npz"))
    x, _ = splits.require("test").tensors()
    assert torch.equal(x, torch.tensor(PICTURES)[:, None] / 255)
    assert len(splits.require("train")) == 36
    assert len(splits.require("development")) == 4


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, np.int8], ids=["int64", "uint16", "int8"])
def test_integers_that_are_bytes_are_images_of_whatever_type(dtype: type) -> None:
    pictures = PICTURES // 2
    x, _ = from_arrays({"x_test": pictures.astype(dtype), "y_test": LABELS}, "own").require("test").tensors()
    assert torch.equal(x, torch.tensor(pictures)[:, None] / 255)


def test_all_parts_are_images_or_all_are_features() -> None:
    bright, dark = np.full((40, 1, 2, 2), 300), np.full((40, 1, 2, 2), 200)
    splits = from_arrays({"x_train": bright, "y_train": LABELS, "x_test": dark, "y_test": LABELS}, "own")
    assert splits.require("train").tensors()[0].unique().tolist() == [300]
    assert splits.require("test").tensors()[0].unique().tolist() == [200]


@settings(max_examples=20, deadline=None)
@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=3), count=st.integers(1, 5))
def test_batches_hold_features_of_any_shape(shape: list[int], count: int) -> None:
    x = RANDOM.normal(size=(count, *shape))
    images = from_arrays({"x_test": x, "y_test": np.zeros(count, int)}, "own").require("test")
    (batch,) = Batches(images, count, shuffle=False)
    assert torch.equal(batch[0], torch.tensor(x, dtype=torch.float32))


def test_features_cannot_be_cropped() -> None:
    images = from_arrays({"x_test": FEATURES, "y_test": LABELS}, "own").require("test")
    with pytest.raises(InputError, match=r"samples of shape \(3,\) are no images; set augmentation to null"):
        next(iter(Batches(images, 8, augmentation=RandomCropFlip())))


def test_a_table_of_numbers_is_features(tmp_path: Path) -> None:
    columns = {"height": FEATURES[:, 0], "label": LABELS, "count": np.arange(40), "seen": LABELS == 1}
    pq.write_table(pa.table(columns), tmp_path / "test.parquet")
    x, y = load(tmp_path / "test.parquet").require("test").tensors()
    expected = np.stack([FEATURES[:, 0], np.arange(40), LABELS], axis=1)
    assert torch.equal(x, torch.tensor(expected, dtype=torch.float32))
    assert y.tolist() == LABELS.tolist()


def test_a_function_gives_data(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "import torch\nimport robustdeq as rd\n"
        "def arrays():\n    return {'x_test': torch.ones(3, 2), 'y_test': torch.tensor([0, 1, 1])}\n"
        "def splits():\n    return rd.data.load('digits')\n"
        "def broken():\n    return 1 / 0\n"
        "def other():\n    return 7\n"
    )
    assert load(f"{tmp_path / 'own.py'}:arrays").require("test").tensors()[0].tolist() == [[1.0, 1.0]] * 3
    assert len(load(f"{tmp_path / 'own.py'}:splits").require("test")) == 400
    with pytest.raises(InputError, match="broken gives no data \\(ZeroDivisionError: division by zero\\)"):
        load(f"{tmp_path / 'own.py'}:broken")
    with pytest.raises(InputError, match=r"other returns a int; make it return rd\.data\.Splits, or arrays by name"):
        load(f"{tmp_path / 'own.py'}:other")


def changed(**arrays: Any) -> dict[str, Any]:
    return {"x_test": FEATURES, "y_test": LABELS} | arrays


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        (changed(x_test=[[1.0], [2.0, 3.0]]), r"own x_test is no array \(ValueError: .*\); give numbers in one shape"),
        (changed(x_test=torch.zeros(40, 2, requires_grad=True)), r"own x_test is no array \(RuntimeError: .*grad"),
        (changed(x_test=np.zeros((40, 3, 0), int)), r"own test has samples of shape \(40, 3, 0\)"),
        ({"x": FEATURES}, "own has no x_test and y_test, nor x_train and y_train"),
        ({"x_test": FEATURES}, "own has x_test or y_test alone; give both"),
        (
            changed(y_test=LABELS.astype(float)),
            r"own test has labels of shape \(40,\) and type float64",
        ),
        (changed(y_test=LABELS[:, None]), r"own test has labels of shape \(40, 1\)"),
        (changed(y_test=LABELS[:7]), "own test has 40 samples but 7 labels"),
        (changed(y_test=LABELS - 1), "own test has the label -1"),
        (changed(x_test=np.array(["a"] * 40)), r"own test has samples of shape \(40,\)"),
        (changed(x_test=np.full((40, 2), np.nan)), "own test has features that are not finite"),
        (
            changed(x_train=np.ones((40, 2)), y_train=LABELS),
            "own test has 3 images but own train has 2",
        ),
    ],
)
def test_arrays_that_are_no_data_are_refused(arrays: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        from_arrays(arrays, "own")


def write_text(path: Path) -> None:
    path.write_text("no arrays")


def write_objects(path: Path) -> None:
    np.savez(path, x_test=np.array([{}], dtype=object), y_test=np.zeros(1, int))


@pytest.mark.parametrize("write", [write_text, write_objects])
def test_a_file_that_holds_no_arrays_is_refused(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path / "own.npz")
    with pytest.raises(InputError, match=r"own\.npz cannot be read as arrays .*; write it by numpy\.savez"):
        load(tmp_path / "own.npz")


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"a": [1.0, 2.0]}, "test.parquet has no label column: add one called 'label'"),
        ({"a": ["x", "y"], "b": [0, 1], "label": [0, 1]}, "has a column 'a' of no numbers; keep numbers and a label"),
        ({"a": [1.0, None], "label": [0, 1]}, "has numbers that are missing or not finite"),
        ({"label": [0, 1]}, "has no image column: add one called 'image'"),
    ],
)
def test_a_table_that_is_no_data_is_refused(columns: dict[str, Any], said: str, tmp_path: Path) -> None:
    pq.write_table(pa.table(columns), tmp_path / "test.parquet")
    with pytest.raises(InputError, match=said):
        load(tmp_path / "test.parquet")
