"""Tensors in files: sealed, so that whatever is changed in a file is refused or changes nothing."""

import random
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from robustdeq.base.tensors import read_sealed, write_tensors

TENSORS = {
    "a": torch.arange(7),
    "b": torch.randn(5, 3, dtype=torch.float64),
    "half": torch.ones(2, dtype=torch.bfloat16),
    "one": torch.tensor(True),
    "none": torch.empty(0, 3),
}
SAID = {"robustdeq": '{"ε": "8/255"}'}


def same(found: tuple[dict[str, torch.Tensor], dict[str, str]]) -> bool:
    tensors, said = found
    equal = all(torch.equal(TENSORS[name], tensor) for name, tensor in tensors.items())
    return equal and tensors.keys() == TENSORS.keys() and SAID.items() <= said.items()


def test_every_flipped_bit_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    write_tensors(path, TENSORS, SAID)
    content = path.read_bytes()
    assert same(read_sealed(path))
    refused = 0
    for bit in random.Random(0).sample(range(8 * len(content)), 2000):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            assert same(read_sealed(path))
        except SafetensorError:
            refused += 1
    assert refused > 1500


def test_file_without_a_seal_is_read_as_before(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "t.safetensors", metadata=SAID)
    assert same(read_sealed(tmp_path / "t.safetensors"))


def test_others_read_what_is_sealed(tmp_path: Path) -> None:
    write_tensors(tmp_path / "t.safetensors", TENSORS, SAID)
    assert load_file(tmp_path / "t.safetensors").keys() == TENSORS.keys()


def test_shipped_weights_are_sealed() -> None:
    for file in sorted((Path(__file__).parents[2] / "weights").glob("*.safetensors")):
        content = bytearray(file.read_bytes())
        assert content.count(b'"sha256":') == 1, file


def test_what_is_said_is_sealed_too(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    write_tensors(path, TENSORS, SAID)
    path.write_bytes(path.read_bytes().replace(b"8/255", b"4/255"))
    with pytest.raises(SafetensorError, match="its content is not what was written"):
        read_sealed(path)


def test_tensors_that_share_memory_are_written(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    tied = {"whole": whole, "again": whole, "part": whole[2:4], "turned": whole.reshape(2, 3).T}
    write_tensors(tmp_path / "t", tied, {})
    found, _ = read_sealed(tmp_path / "t")
    assert found.keys() == tied.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tied.items())
