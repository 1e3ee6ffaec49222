"""A model card says what the file says, in tables that a Markdown parser reads back, and nothing else."""

import hashlib
import math
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import EvalResult, ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

import robustdeq as rd
from robustdeq.models import MDEQ, ResNet, ResNetConfig, Unroll, WideResNet, WideResNetConfig, fingerprint
from robustdeq.solvers import Picard
from robustdeq.zoo import ZooModel
from robustdeq.zoo.card import CARD_START, card_markdown, card_of
from robustdeq.zoo.convert import convert_checkpoint
from robustdeq.zoo.registry import read_card

HEADINGS = [
    "What it is",
    "How to use it",
    "How it was trained",
    "What was measured",
    "What the numbers do not say",
    "How to recognise it",
]
BEST = {"step": 3000, "clean": 0.5, "robust": 0.25, "images": 128}
PROVENANCE = {
    "recipe": {"objective": {"name": "pgd-at", "eps": 8 / 255}, "schedule": {"seed": 42, "max_steps": None}},
    "data": {"train": "a|b, first 9 of `10`", "fingerprint": "f00d", "development": "c_d_e *last 1*"},
    "history": [{"step": 1500.0, "clean": 0.125, "robust": 0.0}, {"step": 3000.0, "clean": 0.5, "robust": 0.25}],
    "device": "cpu",
    "torch": "2.13.0",
    "robustdeq": "0.1.0",
    "code": "c0de",
    "seconds": 5100.4,
    "images_per_second": 19.06,
    "command": "robustdeq train --model nano",
    "best": BEST,
    "gradient": "Phantom(steps=5, damping=0.5)",
}


def mdeq() -> MDEQ:
    config = replace(rd.models.PRESETS["nano"], image_size=(4, 8))
    return rd.models.mdeq(config, num_classes=4, in_channels=2).eval()


def resnet() -> ResNet:
    return ResNet(ResNetConfig((1, 2), width=3), 5, 1).eval()


@dataclass
class Section:
    """The tables of a section as a reader sees them, each a list of rows with its heading first, and its code."""

    tables: list[list[tuple[str, ...]]] = field(default_factory=list)
    code: list[str] = field(default_factory=list)
    text: str = ""

    def rows(self, table: int = 0) -> dict[str, str]:
        return {first: second for first, second, *_ in self.tables[table][1:]}


def shown(token: Token) -> str:
    return "".join(child.content for child in token.children or ())


def sections(markdown: str) -> dict[str, Section]:
    """What a CommonMark parser makes of a card behind its front matter."""
    tokens = MarkdownIt("commonmark").enable("table").parse(re.split("^---\n", markdown, maxsplit=2, flags=re.M)[2])
    found = {"": Section()}
    for before, token in zip([tokens[0], *tokens], tokens, strict=False):
        section = list(found.values())[-1]
        if before.type == "heading_open" and before.tag == "h2":
            found[shown(token)] = Section()
        elif token.type == "table_open":
            section.tables.append([])
        elif token.type == "tr_open":
            section.tables[-1].append(())
        elif before.type in ("th_open", "td_open"):
            section.tables[-1][-1] += (shown(token),)
        elif token.type in ("fence", "code_block"):
            section.code.append(token.content)
        elif token.type == "inline":
            section.text += shown(token) + "\n"
    return found


def saved(model: ZooModel, path: Path, early: int | None = None, provenance: Mapping[str, Any] | None = None) -> str:
    rd.save(model, path, early, provenance)
    return path.with_suffix(".md").read_text(encoding="utf-8")


def wilson(share: float, n: int) -> str:
    """The score interval by its formula, in percent."""
    z = 1.959963984540054
    middle, spread = share + z**2 / (2 * n), z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low, high = ((middle + sign * spread) / (1 + z**2 / n) for sign in (-1, 1))
    return f"{100 * low:.1f}–{100 * high:.1f}"


def test_card_of_a_trained_model_says_what_its_file_says(tmp_path: Path) -> None:
    path = tmp_path / "deq.safetensors"
    text = saved(mdeq(), path, early=3, provenance=PROVENANCE)
    parts, loaded = sections(text), rd.load(path)
    assert list(parts) == ["", *HEADINGS]
    assert text.split("---\n")[1].startswith("library_name: robustdeq\n")
    what = parts["What it is"].rows()
    assert what["architecture"] == "MDEQ nano, 2 scales of 16, 16 feature maps"
    assert what["parameters"] == f"{sum(parameter.numel() for parameter in loaded.parameters()):,}"
    assert what["images"].startswith("2 × 4 × 8 ")
    assert what["classes"] == "4"
    assert what["weights"] == "float32"
    assert what["solver"].startswith("Broyden, at most 6 steps, until the relative residual")
    assert what["tail"] == "5 steps of the cell from f(z*), with damping λ = 0.5"
    assert what["early state"] == "z_3, chosen on a development set"
    assert parts["How it was trained"].rows() == {
        "command": "robustdeq train --model nano",
        "training data": "a|b, first 9 of `10`",
        "fingerprint of the training data": "f00d",
        "development data": "c_d_e *last 1*",
        "version of robustdeq": "0.1.0",
        "version of the code": "c0de",
        "version of torch": "2.13.0",
        "device": "cpu",
        "time (h:mm:ss)": "1:25:00",
        "images per second": "19.06",
        "gradient": "Phantom(steps=5, damping=0.5)",
    }
    assert parts["How it was trained"].rows(1) == {
        "objective.name": "pgd-at",
        "objective.eps": str(8 / 255),
        "schedule.seed": "42",
        "schedule.max_steps": "null",
    }
    assert "unknown" not in parts["How it was trained"].text
    measured = parts["What was measured"]
    assert measured.tables == [
        [
            ("reading", "accuracy in %", "Wilson 95 % interval"),
            ("clean", "50.0", wilson(0.5, 128)),
            ("under the ready-made attack", "25.0", wilson(0.25, 128)),
        ],
        [
            ("step", "clean, %", "under the ready-made attack, %"),
            ("1,500", "12.5", "0.0"),
            ("3,000", "50.0", "25.0"),
        ],
    ]
    assert "after step 3,000" in measured.text
    assert "128 images of the development split" in measured.text
    assert "It says nothing of stronger attacks" in measured.text
    assert "ready-made attack overrates" in parts["What the numbers do not say"].text
    assert "--protocol strict" in parts["What the numbers do not say"].code[0]
    assert parts["How to recognise it"].rows() == {
        "fingerprint": fingerprint(loaded),
        "deq.safetensors": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


def test_front_matter_is_read_by_the_hub(tmp_path: Path) -> None:
    development = "uoft-cs/cifar10 train, last 1000 of 50000"
    sources = {"train": "uoft-cs/cifar10 train, first 49000 of 50000", "development": development}
    text = saved(mdeq(), tmp_path / "deq", provenance={**PROVENANCE, "license": "mit", "data": sources})
    card = ModelCard(text)
    assert card.data.to_dict().keys() == {
        *("library_name", "license", "pipeline_tag", "tags", "datasets", "metrics", "model-index")
    }
    assert (card.data.get("license"), card.data.get("datasets"), card.data.get("metrics")) == (
        "mit",
        ["uoft-cs/cifar10"],
        ["accuracy"],
    )
    assert card.data.get("tags") == ["adversarial-robustness", "deep-equilibrium-model"]
    assert card.data.get("model_name") == "deq"
    place = ("image-classification", "uoft-cs/cifar10", development, "accuracy")
    assert card.data.get("eval_results") == [
        EvalResult(*place, value, dataset_split="development", metric_name=f"accuracy, {reading}")
        for reading, value in (("clean", 0.5), ("under the ready-made attack", 0.25))
    ]
    assert text.endswith(card.text)
    assert sections(text)["How it was trained"].rows()["license"] == "mit"


@pytest.mark.parametrize(
    "source", ["digits of scikit-learn", "cifar10/train-jpeg.parquet, first 9 of 10", "pets/train"]
)
def test_front_matter_says_no_more_than_is_recorded(source: str) -> None:
    def front(provenance: Mapping[str, Any]) -> dict[str, Any]:
        card = replace(card_of(NETWORK), provenance=provenance)
        return ModelCard(card_markdown(card, NETWORK, "net", {"net.safetensors": "0"})).data.to_dict()

    plain = {"library_name": "robustdeq", "pipeline_tag": "image-classification", "tags": ["adversarial-robustness"]}
    assert front({}) == plain
    assert front({"data": {"train": source, "development": source}, "license": None}) == plain
    measured = front({"data": {"train": source, "development": source}, "best": BEST})
    dataset = {"type": "other", "name": source, "split": "development"}
    assert measured["model-index"][0]["results"][0]["dataset"] == dataset
    assert front({"best": BEST})["model-index"][0]["results"][0]["dataset"] == {**dataset, "name": "unknown"}


def test_card_of_an_earlier_version_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "deq.md").write_text("---\nlibrary_name: robustdeq\npipeline_tag: image-classification\n---\n# deq\n")
    text = saved(mdeq(), tmp_path / "deq.safetensors")
    assert text.startswith(CARD_START)
    assert saved(mdeq(), tmp_path / "deq.safetensors", early=1) != text


@pytest.mark.parametrize(
    ("network", "architecture"),
    [
        (resnet(), "ResNet-8, stages of 1, 2 blocks, 3 feature maps"),
        (ResNet(ResNetConfig(width=1), 5, 1), "ResNet-18, stages of 2, 2, 2, 2 blocks, 1 feature maps"),
        (WideResNet(WideResNetConfig(10, 2), 5, 1), "WRN-10-2, a wide residual network"),
    ],
    ids=["resnet", "resnet18", "wide resnet"],
)
def test_card_of_an_explicit_network(network: ResNet | WideResNet, architecture: str, tmp_path: Path) -> None:
    parts = sections(saved(network, tmp_path / "net.safetensors", provenance={"best": BEST}))
    what = parts["What it is"].rows()
    assert what["architecture"] == architecture
    assert what["images"].startswith("1 × any × any ")
    assert what.keys().isdisjoint({"solver", "tail", "early state"})
    assert parts["What was measured"].rows()["clean"] == "50.0"
    assert "equilibrium" not in parts["What the numbers do not say"].text
    assert "no recipe is recorded" in parts["How it was trained"].text


def test_weights_that_say_nothing_have_a_card_that_says_so(tmp_path: Path) -> None:
    parts = sections(saved(mdeq(), tmp_path / "deq.safetensors"))
    assert parts["What it is"].rows()["early state"] == "none was chosen"
    for heading in ("How it was trained", "What was measured"):
        assert parts[heading].tables == []
        assert "is recorded in its file" in parts[heading].text


def test_card_of_a_converted_checkpoint_names_it(tmp_path: Path) -> None:
    source = tmp_path / "net.pth.tar"
    torch.save(ResNet(ResNetConfig((1, 1), 2), 3, 1).state_dict(), source)
    convert_checkpoint(source, tmp_path / "net.safetensors")
    trained = sections((tmp_path / "net.md").read_text(encoding="utf-8"))["How it was trained"]
    assert trained.rows() == {
        "converted from": "net.pth.tar",
        "SHA-256 of what it was converted from": hashlib.sha256(source.read_bytes()).hexdigest(),
    }
    assert trained.text.startswith("How it was trained is unknown")


def with_iteration(deq: MDEQ, solver: rd.solvers.Solver, tail: Unroll) -> MDEQ:
    deq.solver, deq.tail = solver, tail
    return deq


@pytest.mark.parametrize(
    ("solver", "tail", "in_words"),
    [
        (
            Picard(4, 0, result="last"),
            Unroll(1),
            ("Picard, at most 4 steps, without a tol", "1 step of the cell from z*"),
        ),
        (Picard(4, 0.5, "abs"), Unroll(0), ("until the residual ‖f(z) − z‖ is below 0.5", "the final state is z*")),
        (Picard(4), Unroll(0, from_image=True), ("below 0.001", "none, the final state is f(z*)")),
    ],
)
def test_solve_is_told_in_words(solver: rd.solvers.Solver, tail: Unroll, in_words: tuple[str, str]) -> None:
    deq = with_iteration(mdeq(), solver, tail)
    what = sections(card_markdown(card_of(deq), deq, "deq", {"deq.safetensors": "0"}))["What it is"].rows()
    assert in_words[0] in what["solver"]
    assert ("the last state" in what["solver"]) == (solver.result == "last")
    assert in_words[1] in what["tail"]


@pytest.mark.parametrize("name", ["deq", 'it\'s "v1.5" `here`'])
@pytest.mark.parametrize(
    ("make", "early", "shard_bytes", "classes"),
    [(mdeq, 3, None, 4), (mdeq, None, 60_000, 4), (resnet, None, None, 5)],
    ids=["early state", "final state, in shards", "explicit"],
)
def test_what_a_card_tells_to_run_runs(
    name: str,
    make: Callable[[], ZooModel],
    early: int | None,
    shard_bytes: int | None,
    classes: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    rd.save(make(), name, early, shard_bytes=shard_bytes)
    usage = sections(Path(f"{name}.md").read_text(encoding="utf-8"))["How to use it"]
    snippet, command = usage.code
    assert len(snippet.splitlines()) == 5
    variables: dict[str, Any] = {}
    exec(snippet, variables)
    assert len(re.findall(r"\d\.\d*", capsys.readouterr().out)) == 2 * classes
    assert f"(2, {classes})" in usage.text
    model = variables["model"]
    if isinstance(model, rd.Defended):
        assert model.defense == (rd.defenses.FinalState() if early is None else rd.defenses.EarlyState(early))
        model = model.deq
    program, verb, weights, *options = shlex.split(command)
    assert (program, verb) == ("robustdeq", "evaluate")
    assert fingerprint(rd.load(weights)) == fingerprint(model)
    assert options == ["--data", "DATA", *(["--protocol", "strict"] if isinstance(model, MDEQ) else [])]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3),
    max_leaves=8,
)
NETWORK = resnet()
ENTRIES = ("history", "best")


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(
        st.sampled_from(["recipe", "data", "license", "seconds", "images_per_second", "command", "odd", *ENTRIES]), JSON
    ),
    st.dictionaries(st.sampled_from(["step", "clean", "robust", "images"]), JSON),
)
def test_any_provenance_leaves_whole_tables(provenance: dict[str, Any], best: dict[str, Any]) -> None:
    for record in (provenance, {**provenance, "best": best, "history": [best, best]}):
        card = replace(card_of(NETWORK), provenance=record)
        parts = sections(card_markdown(card, NETWORK, "net", {"net.safetensors": "0"}))
        assert list(parts) == ["", *HEADINGS]
        assert (
            ModelCard(card_markdown(card, NETWORK, "net", {"net.safetensors": "0"})).data.get("library_name")
            == "robustdeq"
        )
        for section in parts.values():
            assert all(len({len(row) for row in table}) == 1 for table in section.tables)


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.text("ab`|*_<\\\n \t[", min_size=1), st.text("ab`|*_<\\\n \t["), min_size=1, max_size=4))
def test_recorded_text_is_read_as_it_was_written(provenance: dict[str, str]) -> None:
    card = replace(card_of(NETWORK), provenance=provenance)
    table = sections(card_markdown(card, NETWORK, "net", {"net.safetensors": "0"}))["How it was trained"].tables[0]
    expected = [tuple(" ".join(text.split("\n")).strip() for text in row) for row in provenance.items()]
    assert [tuple(text.strip() for text in row) for row in table[1:]] == expected


@pytest.mark.parametrize(
    ("record", "accuracy", "interval"),
    [
        ({"best": {"clean": 0.5, "robust": 0.2}}, "20.0", "unknown"),
        ({"history": [{"clean": 0.9, "robust": 0.1}, {"clean": 0.5, "robust": 0.3}]}, "30.0", "unknown"),
        ({"best": {"clean": 1.0, "robust": 0.0, "images": 10}}, "0.0", wilson(0.0, 10)),
        ({"best": {"clean": 0.5, "robust": 0.2, "images": 10**400, "step": math.inf}}, "20.0", "unknown"),
        ({"best": {"clean": 50.0, "robust": 20.0}, "history": [{"clean": 0.5, "robust": 0.2}]}, "20.0", "unknown"),
        ({"best": {"clean": -0.5, "robust": 0.4}, "history": [{"clean": 0.5, "robust": 0.2}]}, "20.0", "unknown"),
    ],
    ids=["no number of images", "no best", "bounds", "no counts", "no shares", "negative"],
)
def test_incomplete_measurements_are_shown_as_far_as_they_go(
    record: dict[str, Any], accuracy: str, interval: str
) -> None:
    card = replace(card_of(NETWORK), provenance=record)
    measured = sections(card_markdown(card, NETWORK, "net", {"net.safetensors": "0"}))["What was measured"]
    assert measured.tables[0][2] == ("under the ready-made attack", accuracy, interval)


def test_card_can_be_made_again_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "deq.safetensors"
    text = saved(mdeq(), path, early=2, provenance=PROVENANCE)
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    assert card_markdown(read_card(path), rd.load(path), "deq", files) == text
