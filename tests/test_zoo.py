"""A weights file holds a model, and what rebuilds it; whole or not at all."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import robustdeq as rd
from cells import make_deq
from robustdeq.errors import InputError
from robustdeq.models import MDEQ, MDEQConfig, Unroll, zoo
from robustdeq.models.zoo import card_of, read_card
from robustdeq.solvers import Anderson, Broyden, Picard, Solver

CONFIG = replace(rd.models.PRESETS["nano"], image_size=(4, 8))


def model(config: MDEQConfig = CONFIG) -> MDEQ:
    deq = rd.models.mdeq(config, num_classes=4, in_channels=2)
    deq(torch.rand(8, 2, 4, 8))
    return deq.eval()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "model.safetensors"


@pytest.mark.parametrize(
    "solver", [Broyden(5, 1e-2, limit=3), Anderson(max_steps=4, tol=0, history=2), Picard(max_steps=3, tol=0)], ids=repr
)
@pytest.mark.parametrize("tail", [Unroll(2, 0.3), Unroll(0, from_image=True)], ids=repr)
def test_model_comes_back_with_its_weights_and_settings(solver: Solver, tail: Unroll, path: Path) -> None:
    deq, x = model(), torch.rand(3, 2, 4, 8)
    deq.solver, deq.tail = solver, tail
    rd.save(deq, path)
    torch.manual_seed(5)
    loaded = rd.load(path)
    assert (loaded.solver, loaded.tail, loaded.config) == (solver, tail, CONFIG)
    assert not loaded.training
    assert torch.equal(loaded(x), deq(x))


def test_path_may_be_a_string(path: Path) -> None:
    deq = model()
    rd.save(deq, str(path))
    assert torch.equal(*(m.state_dict()["head.classifier.weight"] for m in (deq, rd.load(str(path)))))


def test_card_says_what_the_model_is(path: Path) -> None:
    deq, provenance = model(), {"data": {"train": "digits"}, "epochs": 3}
    rd.save(deq, path, early=4, provenance=provenance)
    card = read_card(path)
    assert (card.num_classes, card.in_channels, card.early) == (4, 2, 4)
    assert card.provenance == provenance
    assert card.solver["name"] == "Broyden"
    assert card.build().config == CONFIG
    assert card_of(deq).early is None


def test_nothing_but_the_file_is_left(path: Path) -> None:
    for _ in range(2):
        rd.save(model(), path)
    assert list(path.parent.iterdir()) == [path]


def test_interrupted_save_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rd.save(model(), path, early=1)
    before = path.read_bytes()

    def fail(weights: object, file: Path, **_: object) -> None:
        file.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(zoo, "save_file", fail)
    with pytest.raises(OSError, match="no space left"):
        rd.save(model(), path, early=2)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_model_of_another_kind_is_not_saved(path: Path) -> None:
    with pytest.raises(InputError, match="a DEQ cannot be rebuilt from a file"):
        rd.save(make_deq(), path)
    assert not path.parent.exists()


def test_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there are no weights at .*nothing\.safetensors; give a file, or the name"):
        rd.load(tmp_path / "nothing.safetensors")
    with pytest.raises(InputError, match="there are no weights at no-such-name"):
        rd.load("no-such-name")
    with pytest.raises(InputError, match="there are no weights at"):
        rd.load(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_file_is_refused(share: float, path: Path) -> None:
    rd.save(model(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"model\.safetensors is not a readable safetensors file"):
        rd.load(path)


@pytest.mark.parametrize("metadata", [None, {}, {"robustdeq": "{"}, {"robustdeq": "[]"}, {"robustdeq": "{}"}], ids=str)
def test_file_that_does_not_name_its_model_is_refused(metadata: dict[str, str] | None, tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors", metadata=metadata)
    with pytest.raises(InputError, match="does not say which model it holds"):
        rd.load(tmp_path / "other.safetensors")


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    with safe_open(path, "pt") as file:
        card = json.loads(file.metadata()["robustdeq"])
    change(card)
    save_file(load_file(path), path, metadata={"robustdeq": json.dumps(card)})


def test_weights_of_another_model_are_refused(path: Path) -> None:
    rd.save(model(), path)
    rewrite(path, lambda card: card.update(num_classes=5))
    with pytest.raises(InputError, match="do not fit the model they name"):
        rd.load(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda card: card["solver"].update(name="Newton"),
        lambda card: card["solver"].update(colour="red"),
        lambda card: card["config"].update(colour="red"),
        lambda card: card["tail"].update(colour="red"),
        lambda card: card["config"].pop("channels"),
        lambda card: card.update(solver=None),
    ],
    ids=["solver", "setting of solver", "setting of model", "setting of tail", "no channels", "no solver"],
)
def test_model_that_this_version_does_not_know_is_refused(change: Callable[[dict[str, Any]], None], path: Path) -> None:
    rd.save(model(), path)
    rewrite(path, change)
    with pytest.raises(InputError):
        rd.load(path)
