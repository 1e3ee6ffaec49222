"""What is pushed to the Hub is loaded from there: the same model, whole or in shards, its card for all to read."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard

import hub as stand_in
import robustdeq as rd
from hub import Hub
from robustdeq import cli
from robustdeq.base.errors import InputError
from robustdeq.cli.subject import check_named, opened
from robustdeq.models import ResNet, ResNetConfig, fingerprint
from robustdeq.zoo import hub as ours
from robustdeq.zoo.registry import locate, read_card

BEST = {"step": 30.0, "clean": 0.5, "robust": 0.25, "images": 128}
PROVENANCE = {"license": "mit", "data": {"train": "somebody/digits train, first 9 of 10"}, "best": BEST}
LIMIT = 700


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub of its own for each test, with an empty cache; nothing else is reached."""
    with stand_in.serving() as hub:
        constants = huggingface_hub.constants
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", hub.token)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        ours.downloaded.cache_clear()
        yield hub
        ours.downloaded.cache_clear()


def network(seed: int = 0) -> ResNet:
    torch.manual_seed(seed)
    return ResNet(ResNetConfig((1,), width=4), 3, 1).eval()


@pytest.mark.parametrize("limit", [None, LIMIT], ids=["whole", "shards"])
@pytest.mark.parametrize("dtype", [None, torch.float16], ids=str)
def test_pushed_weights_are_loaded(limit: int | None, dtype: torch.dtype | None, hub: Hub, tmp_path: Path) -> None:
    rd.save(network(), tmp_path / "run" / "net", provenance=PROVENANCE, dtype=dtype, shard_bytes=limit)
    files = locate(tmp_path / "run" / "net")
    exact = rd.push(tmp_path / "run" / "net", "me/net")
    there = hub.newest("me/net")
    for reference in ("hf://me/net", exact, f"{exact}/model.safetensors", "hf://models/me/net@main/model"):
        assert fingerprint(rd.load(reference)) == fingerprint(rd.load(files[0]))
        assert read_card(reference) == read_card(files[0])
    weights = {name for name in there if name.endswith(".safetensors")}
    assert {hashlib.sha256(there[name]).digest() for name in weights} == {
        hashlib.sha256(file.read_bytes()).digest() for file in files
    }
    if limit is None:
        assert there.keys() == {".gitattributes", "README.md", "model.safetensors"}
    else:
        index = json.loads(there["model.safetensors.index.json"])
        assert set(index["weight_map"].values()) == weights
        assert index["weight_map"].keys() == network().state_dict().keys()


def test_readme_is_the_card_of_the_weights_there(hub: Hub, tmp_path: Path) -> None:
    rd.save(network(), tmp_path / "net", provenance=PROVENANCE)
    rd.push(tmp_path / "net", "me/very-robust")
    text = hub.newest("me/very-robust")["README.md"].decode()
    data = ModelCard(text).data
    assert (data.get("library_name"), data.get("license"), data.get("datasets")) == (
        "robustdeq",
        "mit",
        ["somebody/digits"],
    )
    assert "# very-robust\n" in text
    assert 'rd.load("hf://me/very-robust")' in text
    assert "robustdeq evaluate hf://me/very-robust --data DATA" in text
    assert "In the folder of this card" not in text
    assert hashlib.sha256(hub.newest("me/very-robust")["model.safetensors"]).hexdigest() in text
    rd.push(tmp_path / "net", "me/very-robust", license="apache-2.0")
    assert ModelCard(hub.newest("me/very-robust")["README.md"].decode()).data.get("license") == "apache-2.0"


def test_push_takes_the_place_of_an_earlier_one_and_of_nothing_else(hub: Hub, tmp_path: Path) -> None:
    other = {"notes.md": b"mine", "model-more.safetensors": b"mine"}
    hub.commit("me/net", other)
    for seed, limit in enumerate((None, LIMIT, None)):
        rd.save(network(seed), tmp_path / "net", shard_bytes=limit)
        before = len(hub.repositories["me/net"])
        rd.push(tmp_path / "net", "me/net")
        assert len(hub.repositories["me/net"]) == before + 1
        assert fingerprint(rd.load("hf://me/net")) == fingerprint(network(seed))
        there = dict(hub.newest("me/net"))
        assert {name: there.pop(name) for name in other} == other
        assert len(there) == 1 + len(locate(tmp_path / "net")) + (limit is not None)


def test_older_revisions_and_other_files_have_references(hub: Hub, tmp_path: Path) -> None:
    rd.save(network(0), tmp_path / "net")
    old = rd.push(tmp_path / "net", "me/net")
    rd.save(network(1), tmp_path / "net")
    rd.push(tmp_path / "net", "me/net")
    rd.save(network(2), tmp_path / "other", shard_bytes=LIMIT)
    files = {f"seeds/{file.name}": file.read_bytes() for file in locate(tmp_path / "other")}
    hub.commit("me/net", {**hub.newest("me/net"), **files})
    found = {"hf://me/net": 1, old: 0, "hf://me/net/seeds/other": 2, f"hf://me/net@main/{next(iter(files))}": 2}
    for reference, seed in found.items():
        assert fingerprint(rd.load(reference)) == fingerprint(network(seed))


def test_private_is_asked_for(hub: Hub, tmp_path: Path) -> None:
    rd.save(network(), tmp_path / "net")
    for private, visibility in ((True, "private"), (False, "public"), (None, None)):
        rd.push(tmp_path / "net", f"me/net-{private}", private=private)
        assert hub.visibility[f"me/net-{private}"] == visibility


def test_row_of_an_earlier_version_is_pushed_with_an_index(hub: Hub, tmp_path: Path) -> None:
    rd.save(network(), tmp_path / "net", shard_bytes=LIMIT)
    (tmp_path / "net.safetensors.index.json").unlink()
    rd.push(tmp_path / "net", "me/net")
    assert "model.safetensors.index.json" in hub.newest("me/net")


def test_hub_is_asked_once_and_what_was_downloaded_is_there_offline(hub: Hub, tmp_path: Path) -> None:
    rd.save(network(), tmp_path / "net", shard_bytes=LIMIT)
    rd.push(tmp_path / "net", "me/net")
    rd.load("hf://me/net")
    asked = list(hub.requests)
    rd.load("hf://me/net")
    assert hub.requests == asked
    hub.shutdown()
    hub.server_close()
    ours.downloaded.cache_clear()
    assert fingerprint(rd.load("hf://me/net")) == fingerprint(network())
    with pytest.raises(InputError, match="hf://me/other cannot be downloaded: the Hub is out of reach"):
        rd.load("hf://me/other")


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("hf://me", r"hf://me is no place on the Hub; give hf://OWNER/NAME\."),
        ("hf://datasets/me/digits", r"hf://datasets/me/digits is a dataset; give the hf://OWNER/NAME of a model\."),
        ("hf://me/nothing", r"hf://me/nothing cannot be downloaded: this account sees no me/nothing; check the name"),
        ("hf://me/gated", r"it is gated; accept its conditions at https://huggingface\.co/me/gated and log in"),
        ("hf://me/net@v9", r"hf://me/net@v9 cannot be downloaded: me/net has no such revision; check"),
        ("hf://me/net", r"me/net has no model\.safetensors; name the file as hf://me/net/FILE\.safetensors\."),
        ("hf://me/net/big", r"big has 1 shards where their names say 2; download it again\."),
        ("hf://me/net/text", r"text\.safetensors is not a readable safetensors file"),
    ],
)
def test_what_cannot_be_loaded_is_told_in_a_sentence(reference: str, sentence: str, hub: Hub) -> None:
    hub.commit("me/gated", {})
    hub.gated.add("me/gated")
    hub.commit("me/net", {"README.md": b"", "big-00001-of-00002.safetensors": b"", "text.safetensors": b"text"})
    for use in (rd.load, read_card):
        with pytest.raises(InputError, match=sentence):
            use(reference)


@pytest.mark.parametrize("commit", ["/dev/zero", "../../../elsewhere", "", "0123"])
def test_what_is_no_commit_is_not_taken_for_a_path(commit: str, hub: Hub, tmp_path: Path) -> None:
    hub.repositories["me/net"] = {commit: {"model.safetensors": b"x"}}
    with pytest.raises(InputError, match=r"the Hub calls '.*' a commit of me/net; try again later\."):
        rd.load("hf://me/net")
    assert not (tmp_path / "cache").exists()


def test_push_without_the_right_to_is_told_in_a_sentence(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rd.save(network(), tmp_path / "net")
    monkeypatch.setenv("HF_TOKEN", "hf_read")
    with pytest.raises(InputError, match=r"me/net cannot be pushed to \(.*403.*\); try again, or log in"):
        rd.push(tmp_path / "net", "me/net")
    with pytest.raises(InputError, match=r"a/b/c cannot be pushed to"):
        rd.push(tmp_path / "net", "a/b/c")
    with pytest.raises(InputError, match="there are no weights at"):
        rd.push(tmp_path / "nothing", "me/net")
    assert hub.repositories == {}


@pytest.fixture
def deq(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A reference to a DEQ for digits."""
    monkeypatch.chdir(tmp_path)
    rd.save(rd.models.mdeq("nano", in_channels=1).eval(), "deq", early=2)
    return rd.push("deq", "me/deq").partition("@")[0]


def test_commands_know_references(deq: str) -> None:
    check_named(deq, None, None)
    subject = opened(deq, rd.data.load("digits").require("test"))
    assert (subject.name, subject.early) == ("deq", 2)
    assert fingerprint(subject.model) == fingerprint(rd.load("deq"))


@pytest.mark.slow
def test_evaluate_takes_a_reference(deq: str) -> None:
    effort = ["--attack.steps", "1", "--estimators.steps", "[1]", "--estimators.dampings", "[1.0]", "-n", "2"]
    cli.main(["evaluate", deq, "--data", "digits", *effort, "--output", "out"])
    assert json.loads(Path("out/results.json").read_text())["defenses"]
