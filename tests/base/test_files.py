"""Files appear whole or not at all."""

import errno
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from disk import small_disk
from robustdeq.base.files import replace_with, write_text
from robustdeq.base.tensors import write_tensors

TENSORS = {"a": torch.arange(3), "b": torch.randn(2000)}


def test_tensors_come_back_with_what_is_said_of_them(tmp_path: Path) -> None:
    write_tensors(tmp_path / "new" / "t.safetensors", {"a": TENSORS["a"], "b": TENSORS["b"][::2]}, {"says": "this"})
    found = load_file(tmp_path / "new" / "t.safetensors")
    assert torch.equal(found["a"], TENSORS["a"])
    assert torch.equal(found["b"], TENSORS["b"][::2])


def test_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("old")
    with small_disk(), pytest.raises(OSError, match="File too large") as error:
        write_text(tmp_path / "text", "x" * 10_000)
    assert error.value.errno == errno.EFBIG
    with small_disk(), pytest.raises(OSError, match="text"):
        write_tensors(tmp_path / "text", TENSORS, {})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"text": "old"}


def test_failure_while_writing_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("old")

    def fail(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        replace_with(tmp_path / "text", fail)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"text": "old"}
