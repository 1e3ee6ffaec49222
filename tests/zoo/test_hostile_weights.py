"""Weights and checkpoints of strangers: what a file claims is held against what it holds before anything is built."""

import json
import random
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import robustdeq as rd
from robustdeq.base.errors import InputError
from robustdeq.models import convert_checkpoint
from robustdeq.zoo.registry import read_card


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    rd.save(rd.models.conv("digits", 10, 1), path)
    return path


def with_card(weights: Path, path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The same weights without a seal, and with another card, as from a stranger."""
    card = vars(read_card(weights)).copy()
    card = json.loads(json.dumps(card))
    change(card)
    save_file(load_file(weights), path, metadata={"robustdeq": json.dumps(card)})
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda card: card["config"].update(channels=8 * 10**11),
        lambda card: card["config"].update(channels="a"),
        lambda card: card["config"].update(image_size=[1, 2, 3]),
        lambda card: card.update(config=3),
        lambda card: card.update(num_classes=-3),
        lambda card: card.update(num_classes=10**15),
        lambda card: card.update(num_classes=10**40),
        lambda card: card.update(in_channels=0),
        lambda card: card.update(early="x"),
        lambda card: card.update(early=10**9),
        lambda card: card.update(provenance=3),
        lambda card: card.update(architecture=[1]),
        lambda card: card.update(gradient={"nam": "Neumann"}),
        lambda card: card["solver"].update(max_steps=10**12),
        lambda card: card["tail"].update(steps=10**12),
        lambda card: card.update(architecture="ResNet", config={"blocks": [10**9], "width": 8}, solver=None, tail=None),
        lambda card: card.update(unknown=1),
    ],
)
def test_card_whose_sizes_make_no_sense_is_refused(
    change: Callable[[dict[str, Any]], object], weights: Path, tmp_path: Path, unchecked: None
) -> None:
    with pytest.raises(InputError, match=r"(holds a model that|does not say which model|do not fit the model)") as said:
        rd.load(with_card(weights, tmp_path / "other.safetensors", change))
    assert "\n" not in str(said.value)


def test_card_that_is_nested_too_deeply_is_refused(weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file(load_file(weights), path, metadata={"robustdeq": "[" * 100_000})
    with pytest.raises(InputError, match="does not say which model it holds"):
        rd.load(path)


def test_flipped_bits_in_weights_are_refused_or_change_nothing(weights: Path, tmp_path: Path) -> None:
    content, whole = weights.read_bytes(), rd.load(weights).state_dict()
    path, chance, refused = tmp_path / "flipped.safetensors", random.Random(0), 0
    header = int.from_bytes(content[:8], "little") + 8
    bits = [chance.randrange(8 * header) for _ in range(60)] + [chance.randrange(8 * len(content)) for _ in range(60)]
    for bit in bits:
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            found = rd.load(path).state_dict()
        except InputError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            assert all(torch.equal(whole[name], tensor) for name, tensor in found.items())
    assert refused > 90


def stride_0() -> torch.Tensor:
    return torch.zeros(1).as_strided((10**7, 10**7), (0, 0))


def quantised() -> torch.Tensor:
    with warnings.catch_warnings(action="ignore"):
        return torch.quantize_per_tensor(torch.zeros(3, 3), 0.1, 0, torch.qint8)


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (stride_0(), "claims to be (10000000, 10000000) and is not; save it as contiguous()."),
        (torch.eye(3).to_sparse(), "is sparse, quantised, complex or without numbers; save plain real tensors."),
        (torch.zeros(3, device="meta"), "is sparse, quantised, complex or without numbers; save plain real tensors."),
        (quantised(), "is sparse, quantised, complex or without numbers; save plain real tensors."),
        (torch.zeros(3, dtype=torch.complex64), "is sparse, quantised, complex or without numbers"),
    ],
    ids=["stride 0", "sparse", "meta", "quantised", "complex"],
)
def test_checkpoint_of_other_tensors_is_refused(tensor: torch.Tensor, said: str, tmp_path: Path) -> None:
    torch.save({"layer1.0.conv1.weight": torch.zeros(3), "odd": tensor}, tmp_path / "c.pt")
    with pytest.raises(InputError) as error:
        convert_checkpoint(tmp_path / "c.pt", tmp_path / "out.safetensors")
    assert str(error.value).startswith(f"odd in {tmp_path}/c.pt {said}")


def test_checkpoint_whose_shapes_claim_a_huge_network_is_refused(tmp_path: Path) -> None:
    claims = {"conv1.weight": torch.zeros(10**6, 3, 1, 1), "layer1.0.conv1.weight": torch.zeros(3)}
    torch.save(claims | {"linear.weight": torch.zeros(10, 3)}, tmp_path / "c.pt")
    with pytest.raises(InputError, match="do not make a ResNet"):
        convert_checkpoint(tmp_path / "c.pt", tmp_path / "out.safetensors")


def test_packed_checkpoint_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(10**5)}, tmp_path / "whole.pt")
    deflated = zipfile.ZipFile(tmp_path / "c.pt", "w", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(tmp_path / "whole.pt") as whole, deflated as packed:
        for record in whole.namelist():
            packed.writestr(record, whole.read(record))
    with pytest.raises(InputError, match="is not a whole checkpoint"):
        convert_checkpoint(tmp_path / "c.pt", tmp_path / "out.safetensors")


def test_names_that_are_no_names_are_refused(tmp_path: Path) -> None:
    torch.save({1: torch.zeros(3)}, tmp_path / "c.pt")
    with pytest.raises(InputError, match="holds no state dict of tensors"):
        convert_checkpoint(tmp_path / "c.pt", tmp_path / "out.safetensors")
