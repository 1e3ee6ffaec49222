"""A weights file holds a model, and what rebuilds it; whole or not at all, in one file or in shards."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import robustdeq as rd
from cells import make_deq
from robustdeq.base import tensors
from robustdeq.base.errors import InputError
from robustdeq.base.imports import imported
from robustdeq.base.provenance import describe
from robustdeq.defenses import EarlyState
from robustdeq.deq.cell import Execution
from robustdeq.gradients import SHINE, Exact, Phantom, StateGradient, ThroughSolver
from robustdeq.models import (
    MDEQ,
    MDEQConfig,
    ResNet,
    ResNetConfig,
    Unroll,
    WideResNet,
    WideResNetConfig,
    fingerprint,
)
from robustdeq.solvers import Anderson, Broyden, Picard, Solver
from robustdeq.zoo import ZooModel, registry
from robustdeq.zoo.registry import card_of, locate, packaged_names, read_card

CONFIG = replace(rd.models.PRESETS["nano"], image_size=(4, 8))


def model(config: MDEQConfig = CONFIG) -> MDEQ:
    deq = rd.models.mdeq(config, num_classes=4, in_channels=2)
    deq(torch.rand(8, 2, 4, 8))
    return deq.eval()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "model.safetensors"


@pytest.mark.parametrize(
    ("gradient", "kept"),
    [
        (Exact(max_steps=7, tol=1e-4), True),
        (Phantom(steps=3, damping=0.4), True),
        (SHINE(), True),
        (ThroughSolver(checkpoint=True), True),
        (ThroughSolver(EarlyState(2)), False),
        (None, False),
    ],
    ids=repr,
)
def test_weights_remember_the_gradient_that_they_were_trained_with(
    gradient: StateGradient | None, kept: bool, path: Path
) -> None:
    deq = model()
    plain = fingerprint(deq)
    deq.gradient = gradient
    rd.save(deq, path)
    loaded = rd.load(path)
    assert loaded.gradient == (gradient if kept else None)
    assert fingerprint(loaded) == fingerprint(deq) == plain


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


@pytest.mark.parametrize(
    "network",
    [ResNet(ResNetConfig((1, 2), width=3), 4, 2), WideResNet(WideResNetConfig(10, 1), 4, 2)],
    ids=["resnet", "wide resnet"],
)
def test_explicit_network_comes_back(network: ResNet | WideResNet, path: Path) -> None:
    x = torch.rand(8, 2, 8, 8)
    network.train()(x)
    rd.save(network, path, provenance={"epochs": 3})
    loaded = rd.load(path)
    assert type(loaded) is type(network)
    assert (loaded.config, loaded.num_classes, loaded.in_channels) == (network.config, 4, 2)
    assert torch.equal(loaded(x), network.eval()(x))
    card = read_card(path)
    assert (card.architecture, card.solver, card.tail) == (type(network).__name__, None, None)
    assert card.provenance == {"epochs": 3}


def test_file_from_before_explicit_networks_loads(path: Path) -> None:
    deq, x = model(), torch.rand(3, 2, 4, 8)
    rd.save(deq, path)
    rewrite(path, lambda card: card.pop("architecture"))
    assert torch.equal(rd.load(path)(x), deq(x))


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
    assert card.architecture == "MDEQ"
    assert card.build().config == CONFIG
    assert card_of(deq).early is None


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def described(folder: Path, name: str) -> bool:
    """Whether the card of that name is of the weights that lie there."""
    text = (folder / f"{name}.md").read_text(encoding="utf-8")
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in locate(folder / name)]
    return all(digest in text for digest in (*digests, fingerprint(rd.load(folder / name))))


def test_nothing_but_the_weights_and_their_card_is_left(path: Path) -> None:
    for _ in range(2):
        rd.save(model(), path)
        assert names(path.parent) == ["model.md", "model.safetensors"]
        assert described(path.parent, "model")


@pytest.mark.parametrize("name", ["big", "big-1.5", "big.safetensors"])
@pytest.mark.parametrize("limit", [None, 60_000], ids=["whole", "shards"])
def test_suffix_may_be_left_out(name: str, limit: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deq = model()
    monkeypatch.chdir(tmp_path)
    rd.save(deq, name, shard_bytes=limit)
    stem = name.removesuffix(".safetensors")
    assert Path(f"{stem}.md").is_file()
    for given_name in (name, stem, f"{stem}.safetensors", tmp_path / stem, Path("..") / tmp_path.name / name):
        assert fingerprint(rd.load(given_name)) == fingerprint(deq)


@pytest.mark.parametrize(
    ("module", "function"), [(tensors, "save_file"), (registry, "write_text")], ids=["weights", "card"]
)
def test_interrupted_save_leaves_the_old_pair(
    module: object, function: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rd.save(model(), path, early=1)
    before = contents(path.parent)

    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(module, function, fail)
    for limit in (None, 60_000):
        with pytest.raises(OSError, match="no space left"):
            rd.save(model(), path, early=2, shard_bytes=limit)
        assert contents(path.parent) == before


def test_save_draws_no_random_numbers(path: Path) -> None:
    for network in (model(), ResNet(ResNetConfig((1, 1), width=4), 3, 1), WideResNet(WideResNetConfig(10, 1), 3, 1)):
        before = torch.random.get_rng_state()
        rd.save(network, path)
        assert torch.equal(torch.random.get_rng_state(), before)


def test_other_text_is_not_replaced_by_a_card(path: Path) -> None:
    path.parent.mkdir()
    path.with_suffix(".md").write_text("my notes")
    with pytest.raises(InputError, match=r"model\.md is no model card"):
        rd.save(model(), path)
    assert contents(path.parent) == {"model.md": b"my notes"}


@dataclass(frozen=True)
class Cautious(Picard):
    """A solver that `load` does not know."""


def test_what_could_not_be_loaded_is_not_saved(path: Path) -> None:
    deq, extended = model(), model()
    deq.solver = Cautious()
    extended.head.another = extended.head.classifier
    for network, message in ((deq, "Cautious"), (extended, "head.another")):
        with pytest.raises(InputError, match=f"this MDEQ could not be rebuilt from a file .*(?s:.*){message}"):
            rd.save(network, path)
    with pytest.raises(InputError, match="state 8 does not exist"):
        rd.save(model(), path, early=8)
    with pytest.raises(InputError, match="a ResNet has no state 1; leave early out"):
        rd.save(ResNet(ResNetConfig((1,), width=2), 3, 1), path, early=1)
    with pytest.raises(InputError, match=r"is the name of a shard; save to .*x\.safetensors"):
        rd.save(model(), path.with_name("x-00001-of-00002.safetensors"))
    assert not path.parent.exists()


class TestStoredType:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_it_is_loaded_as_float32(self, dtype: torch.dtype, path: Path) -> None:
        deq = model()
        rd.save(deq, path, dtype=dtype)
        expected = {name: t.to(dtype).float() if t.is_floating_point() else t for name, t in deq.state_dict().items()}
        loaded = rd.load(path).state_dict()
        assert {name: t.dtype for name, t in loaded.items()} == {name: t.dtype for name, t in expected.items()}
        assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.items())
        assert {t.dtype for t in load_file(path).values() if t.is_floating_point()} == {dtype}
        assert described(path.parent, "model")
        assert (
            f"stored as {str(dtype).removeprefix('torch.')}, loaded as float32" in path.with_suffix(".md").read_text()
        )

    def test_values_beyond_its_range_are_refused(self, path: Path) -> None:
        deq = model()
        deq.head.classifier.bias.data[0] = 1e5
        with pytest.raises(InputError, match=r"head\.classifier\.bias has values beyond the range of torch\.float16"):
            rd.save(deq, path, dtype=torch.float16)
        rd.save(deq, path, dtype=torch.bfloat16)

    @pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e5m2, torch.complex64])
    def test_other_types_are_refused(self, dtype: torch.dtype, path: Path) -> None:
        with pytest.raises(InputError, match=r"choose one of torch\.float16, torch\.bfloat16"):
            rd.save(model(), path, dtype=dtype)


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
        lambda card: card.pop("tail"),
        lambda card: card.update(architecture="Transformer"),
        lambda card: card.update(architecture="ResNet"),
    ],
    ids=[
        *("solver", "setting of solver", "setting of model", "setting of tail"),
        *("no channels", "no solver", "no tail", "architecture", "another architecture"),
    ],
)
def test_model_that_this_version_does_not_know_is_refused(change: Callable[[dict[str, Any]], None], path: Path) -> None:
    rd.save(model(), path)
    rewrite(path, change)
    with pytest.raises(InputError):
        rd.load(path)


def save_shards(deq: ZooModel, folder: Path, name: str, count: int) -> list[Path]:
    """Write a model the way that weights too big for one file lie there: every shard with the metadata."""
    rd.save(deq, folder / "whole.safetensors")
    with safe_open(folder / "whole.safetensors", "pt") as file:
        metadata = {"robustdeq": file.metadata()["robustdeq"]}
    weights = list(load_file(folder / "whole.safetensors").items())
    (folder / "whole.safetensors").unlink()
    paths = [folder / f"{name}-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    for i, shard in enumerate(paths):
        save_file(dict(weights[i::count]), shard, metadata=metadata)
    return paths


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The `weights` folder of a checkout, beside a package without weights."""
    (tmp_path / "weights").mkdir()
    monkeypatch.setattr(registry, "_FOLDERS", (tmp_path / "package", tmp_path / "weights"))
    return tmp_path / "weights"


def test_weights_of_a_checkout_have_names(folder: Path) -> None:
    deq = model()
    rd.save(deq, folder / "aligned.safetensors")
    shards = save_shards(deq, folder, "big-1.5", 3)
    save_shards(deq, folder, "big-1.5-more", 2)
    assert packaged_names() == ["aligned", "big-1.5", "big-1.5-more"]
    assert locate("aligned") == [folder / "aligned.safetensors"]
    assert locate("big-1.5") == shards
    x = torch.rand(3, 2, 4, 8)
    for name in ("aligned", "big-1.5", shards[1], str(shards[2])):
        assert torch.equal(rd.load(name)(x), deq(x))
        assert read_card(name).build().config == CONFIG


def test_packaged_weights_come_before_those_of_a_checkout(folder: Path) -> None:
    rd.save(model(), folder / "nano.safetensors", early=2)
    assert read_card("nano").early == 2
    rd.save(model(), folder.parent / "package" / "nano.safetensors", early=3)
    assert read_card("nano").early == 3
    assert packaged_names() == ["nano"]


def test_row_of_shards_with_a_gap_is_refused(folder: Path) -> None:
    shards = save_shards(model(), folder, "big", 3)
    shards[1].unlink()
    for name in ("big", shards[0]):
        with pytest.raises(InputError, match=r"big has 2 shards where their names say 3; download it again"):
            rd.load(name)


@pytest.mark.parametrize("broken", range(3))
def test_truncated_shard_is_refused(broken: int, folder: Path) -> None:
    shards = save_shards(model(), folder, "big", 3)
    shards[broken].write_bytes(shards[broken].read_bytes()[:-1])
    with pytest.raises(InputError, match=rf"big-0000{broken + 1}-of-00003\.safetensors is not a readable safetensors"):
        rd.load("big")


SMALL = ResNet(ResNetConfig((1,), width=4), 3, 1).eval()
THREE_SHARDS, TWO_SHARDS = 750, 1_000


def expected(folder: Path, name: str) -> list[str]:
    """The weights of that name that lie there, their card, and the index of a row."""
    files = [file.name for file in locate(folder / name)]
    return sorted([f"{name}.md", *files, *([f"{name}.safetensors.index.json"] if len(files) > 1 else [])])


class TestShards:
    @settings(deadline=None, max_examples=15)
    @given(limit=st.integers(1, 2_000), dtype=st.sampled_from([None, torch.float16]), note=st.text(max_size=99))
    def test_each_is_within_the_limit_and_all_give_the_model(
        self, limit: int, dtype: torch.dtype | None, note: str, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        folder = tmp_path_factory.mktemp("shards")
        rd.save(SMALL, folder / "net", provenance={"note": note}, dtype=dtype, shard_bytes=limit)
        shards = locate(folder / "net")
        sizes = {shard.name: [tensor.nbytes for tensor in load_file(shard).values()] for shard in shards}
        assert all(len(size) == 1 or sum(size) <= limit for size in sizes.values())
        assert len(shards) == 1 or sum(map(sum, sizes.values())) > limit
        numbered = [f"net-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
        assert list(sizes) == (numbered if len(shards) > 1 else ["net.safetensors"])
        assert names(folder) == expected(folder, "net")
        assert described(folder, "net")
        assert all(read_card(shard).provenance == {"note": note} for shard in shards)
        assert dtype is not None or fingerprint(rd.load(shards[-1])) == fingerprint(SMALL)

    def test_index_says_where_each_tensor_lies(self, tmp_path: Path) -> None:
        rd.save(SMALL, tmp_path / "net-{1}", shard_bytes=THREE_SHARDS)
        index = json.loads((tmp_path / "net-{1}.safetensors.index.json").read_text())
        weights = SMALL.state_dict()
        assert index["metadata"] == {"total_size": sum(tensor.nbytes for tensor in weights.values())}
        assert set(index["weight_map"].values()) == {f"net-{{1}}-0000{i}-of-00003.safetensors" for i in (1, 2, 3)}
        for name, tensor in weights.items():
            assert torch.equal(load_file(tmp_path / index["weight_map"][name])[name], tensor)

    @pytest.mark.parametrize("limit", [0, -1])
    def test_limit_is_positive(self, limit: int, path: Path) -> None:
        with pytest.raises(InputError, match=rf"shard_bytes is {limit}; give 1 or more\."):
            rd.save(SMALL, path, shard_bytes=limit)
        assert not path.parent.exists()

    def test_model_that_fits_is_one_file(self, path: Path) -> None:
        rd.save(SMALL, path, shard_bytes=100_000)
        assert locate(path) == [path]

    def test_what_had_the_name_before_is_gone_and_what_has_another_stays(self, tmp_path: Path) -> None:
        rd.save(SMALL, tmp_path / "net-more", shard_bytes=TWO_SHARDS)
        others = contents(tmp_path)
        for limit in (None, TWO_SHARDS, THREE_SHARDS, TWO_SHARDS, None, None):
            deq = SMALL if limit else model()
            rd.save(deq, tmp_path / "net", shard_bytes=limit)
            found = contents(tmp_path)
            assert {name: found.pop(name) for name in others} == others
            assert sorted(found) == expected(tmp_path, "net")
            assert fingerprint(rd.load(tmp_path / "net")) == fingerprint(deq)

    @pytest.mark.parametrize("before", [None, TWO_SHARDS, THREE_SHARDS])
    @pytest.mark.parametrize("after", [None, THREE_SHARDS])
    def test_save_killed_at_any_moment_leaves_no_mixture(
        self, before: int | None, after: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        torch.manual_seed(1)
        new = ResNet(ResNetConfig((1,), width=4), 3, 1)
        known = {fingerprint(SMALL), fingerprint(new)}
        rename, moves = Path.replace, 0

        def stop(file: Path, target: Path) -> Path:
            nonlocal moves
            if target.parent.name == "folder":
                moves -= 1
                if moves < 0:
                    raise KeyboardInterrupt
            return rename(file, target)

        monkeypatch.setattr(Path, "replace", stop)
        for allowed in count():
            folder = tmp_path / str(allowed) / "folder"
            moves = 99
            rd.save(SMALL, folder / "net", shard_bytes=before)
            moves = allowed
            try:
                rd.save(new, folder / "net", shard_bytes=after)
            except KeyboardInterrupt:
                assert not (folder / "net.md").exists()
                try:
                    assert fingerprint(rd.load(folder / "net")) in known
                except InputError as error:
                    assert before and after, "a whole file and a row of shards never stand in each other's way"
                    assert "download it again" in str(error) or "there are no weights" in str(error)
            else:
                assert described(folder, "net")
                break
        assert allowed == {None: 1, THREE_SHARDS: 4}[after] + 1


RELU = nn.ReLU()


REPLACED: list[Callable[[MDEQ], object]] = [
    lambda deq: deq.head.final.register_module("2", nn.Tanh()),
    lambda deq: setattr(deq.cell.blocks[0].norm1, "eps", 0.5),
]


@pytest.mark.parametrize("change", REPLACED, ids=["activation", "eps"])
def test_model_whose_parts_are_not_those_of_its_settings_is_not_saved(
    change: Callable[[MDEQ], object], path: Path
) -> None:
    deq = model()
    change(deq)
    with pytest.raises(InputError, match=r"is not what the settings of this MDEQ make; save it with a factory"):
        rd.save(deq, path)
    assert not path.parent.exists()


FACTORY = """
from torch import nn

class Counting(nn.Linear):
    calls = 0
    def forward(self, x):
        self.calls += 1
        return super().forward(x)

def make():
    return nn.Sequential(Counting(4, 3), nn.ReLU(), nn.LazyLinear(2), nn.Dropout(0.1))
"""


def test_how_fast_batch_normalisation_forgets_is_no_part_of_a_model(path: Path) -> None:
    deq = model()
    before = fingerprint(deq)
    for part in deq.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None
    rd.save(deq, path)
    assert fingerprint(rd.load(path)) == fingerprint(deq) == before


def test_only_what_a_factory_makes_is_saved_as_its_model(path: Path, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(FACTORY)
    made, x = imported(f"{tmp_path}/own.py:make")(), torch.rand(3, 4)
    expected = made.eval()(x)
    rd.save(made, path, factory=f"{tmp_path}/own.py:make")
    assert torch.equal(rd.load(path, trust=True)(x), expected)
    for name, part in (("1", nn.Tanh()), ("3", nn.Dropout(0.2))):
        other = nn.Sequential(*made).eval()
        other.register_module(name, part)
        with pytest.raises(InputError, match=rf"^{name} is not what .*own\.py:make makes"):
            rd.save(other, path, factory=f"{tmp_path}/own.py:make")


TIED = """
from torch import nn

def make():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    return nn.Sequential(first, nn.Tanh(), second)
"""


def test_weights_that_are_shared_stay_shared_and_count_once(path: Path, tmp_path: Path) -> None:
    (tmp_path / "tied.py").write_text(TIED)
    factory = f"{tmp_path}/tied.py:make"
    made = imported(factory)()
    rd.save(made, path, factory=factory)
    loaded = rd.load(path, trust=True)
    assert loaded[0].weight is loaded[2].weight  # pyright: ignore
    assert "| parameters | 24 |" in path.with_suffix(".md").read_text()
    made[2].weight = nn.Parameter(made[2].weight + 1)
    with pytest.raises(InputError, match=r"^0\.weight shares its values with other weights where it is made anew"):
        rd.save(made, path, factory=factory)


def test_model_without_weights_is_not_saved_and_one_of_buffers_alone_is(path: Path) -> None:
    with pytest.raises(InputError, match="the model has no weights"):
        rd.save(nn.Flatten(), path, factory="torch.nn:Flatten")
    still = nn.BatchNorm1d(4, affine=False).eval()
    rd.save(still, path, factory="torch.nn:BatchNorm1d", arguments={"num_features": 4, "affine": False})
    assert fingerprint(rd.load(path, trust=True)) == fingerprint(still)


def test_load_gives_doubles_where_all_weights_are(path: Path) -> None:
    for network in (model().double(), ResNet(ResNetConfig((1,), width=4), 2, 2).double().eval()):
        rd.save(network, path)
        loaded, x = rd.load(path), torch.rand(3, 2, 4, 8, dtype=torch.float64)
        assert torch.equal(loaded(x), network(x))
        assert fingerprint(loaded) == fingerprint(network)
        assert "float64" in path.with_suffix(".md").read_text()
        assert described(path.parent, "model")


def test_model_that_is_double_in_part_is_not_saved(path: Path) -> None:
    deq = model()
    deq.head.classifier.double()
    with pytest.raises(InputError, match=r"head\.classifier\.weight is in torch\.float64 and other weights are not"):
        rd.save(deq, path)
    rd.save(deq, path, dtype=torch.float16)


class Remembering(nn.Linear):
    """A layer that keeps a number beside its weights."""

    def __init__(self, number: int) -> None:
        super().__init__(4, 3)
        self._parameters["weight"], self._parameters["bias"] = (nn.Parameter(torch.ones(size)) for size in ((3, 4), 3))
        self._held = {"number": number}

    def get_extra_state(self) -> dict[str, int]:
        return self._held

    def set_extra_state(self, state: dict[str, int]) -> None:
        self._held = state


def test_state_that_is_no_tensor_counts_and_is_not_saved(path: Path) -> None:
    for told in (fingerprint, describe):
        assert told(Remembering(1)) == told(Remembering(1)) != told(Remembering(2))
    with pytest.raises(InputError, match="_extra_state is a dict, and a weights file holds tensors; make it a buffer"):
        rd.save(Remembering(1), path, factory=f"{__file__}:none")


def test_random_numbers_of_others_stay_as_they_are(path: Path) -> None:
    deq = model()
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    rd.save(deq, path)
    fingerprint(rd.load(path))
    assert torch.equal(torch.random.get_rng_state(), before)


class TestFingerprint:
    def test_it_survives_a_file_and_a_memory_format(self, path: Path) -> None:
        for network in (model(), ResNet(ResNetConfig((1, 1), width=4), 3, 1)):
            before = fingerprint(network)
            rd.save(network, path)
            assert fingerprint(rd.load(path)) == before
            assert fingerprint(network.to(memory_format=torch.channels_last)) == before

    @pytest.mark.parametrize(
        "change",
        [
            lambda deq: deq.head.classifier.bias.data[0].add_(1e-3),
            lambda deq: next(deq.buffers()).add_(1),
            lambda deq: deq.to(torch.bfloat16),
            lambda deq: setattr(deq, "solver", Picard()),
            lambda deq: setattr(deq, "solver", replace(deq.solver, max_steps=1)),
            lambda deq: setattr(deq, "tail", Unroll(1, 0.3)),
            lambda deq: setattr(deq, "config", replace(deq.config, groups=2)),
            lambda deq: setattr(deq.head, "another", deq.head.classifier),
            lambda deq: setattr(deq, "execution", Execution("bfloat16")),
            *REPLACED,
        ],
        ids=[
            *("weight", "buffer", "type", "solver", "step", "tail", "groups", "name", "execution"),
            *("activation", "eps"),
        ],
    )
    def test_whatever_changes_the_model_changes_it(self, change: Callable[[MDEQ], object]) -> None:
        deq = model()
        before = fingerprint(deq)
        change(deq)
        assert fingerprint(deq) != before

    @pytest.mark.parametrize(
        ("make", "one", "other"),
        [
            (lambda act: nn.Sequential(nn.Linear(2, 2), act), nn.LeakyReLU(0.01), nn.LeakyReLU(5.0)),
            (lambda act: nn.Sequential(nn.Linear(2, 2), act), nn.LeakyReLU(0.01), nn.Tanh()),
            (lambda acts: nn.Sequential(*acts), [RELU], [RELU, RELU]),
            (lambda p: nn.Dropout(p), 0.1, 0.2),
            (lambda eps: nn.BatchNorm2d(2, eps), 1e-5, 1e-3),
            (lambda stride: nn.Conv2d(1, 1, 3, stride), 1, 2),
            (lambda limit: make_deq().with_settings(solver=Broyden(limit=limit)), 2, 3),
        ],
        ids=["slope", "kind", "repeated", "dropout", "eps", "stride", "solver"],
    )
    def test_settings_of_any_module_count(self, make: Callable[[Any], nn.Module], one: object, other: object) -> None:
        models = []
        for setting in (one, one, other):
            torch.manual_seed(0)
            models.append(fingerprint(make(setting)))
        assert models[0] == models[1] != models[2]

    def test_how_a_deq_is_differentiated_or_run_does_not_count(self) -> None:
        deq = make_deq().eval()
        before = fingerprint(deq)
        assert fingerprint(deq.with_settings(gradient=SHINE()).train()) == before

    def test_any_module_has_one(self) -> None:
        deq = make_deq()
        before = fingerprint(deq)
        deq.tail = Unroll(3, 0.5)
        assert len({before, fingerprint(deq), fingerprint(deq.cell)}) == 3
