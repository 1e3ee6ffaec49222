"""From an evaluation to a row of the leaderboard, by the commands that the documentation names."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import robustdeq as rd
from robustdeq import cli
from robustdeq.evaluation import GridResult
from robustdeq.reporting import read_entries

pytestmark = pytest.mark.xdist_group("submit")

ENTRY = """
name = "a monotone DEQ"
training = "not at all"
network = "model.safetensors"
data = "digits"
images = 8
eps = "1/50"
norm = "L2"
adversaries = "worst.safetensors"
worst_case = {worst}
certificate = "lipschitz"
command = "robustdeq evaluate …"
"""
QUICK = [f"--{name}" for name in ("estimators.steps=[1]", "estimators.dampings=[1.0]", "estimators.states=1")]
EFFORT = {"steps": 2, "restarts": 1, "apgd_steps": 2, "targets": 1, "queries": 2, "probe_images": 4}
STRICT = [f"--strict.{name}={value}" for name, value in EFFORT.items()]
SHORT = [f"--effort.{name}={value}" for name, value in EFFORT.items()]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation with its adversaries, an entry beside them, and its row."""
    with pytest.MonkeyPatch.context() as moved:
        moved.chdir(folder := tmp_path_factory.mktemp("made"))
        torch.manual_seed(0)
        rd.save(rd.models.monotone("digits-dense", in_channels=1).eval(), "mine/model.safetensors")
        attack = ["--attack.eps", "0.02", "--attack.norm", "L2", "--attack.steps", "2", "--early", "3"]
        evaluation = ["evaluate", "mine/model.safetensors", "--data", "digits", "-n", "8", "--protocol", "worst-case"]
        cli.main([*evaluation, *attack, *QUICK, *STRICT, "--save_adversaries", "--output", "run"])
        cli.main(["export", "run", "--to", "mine/worst.safetensors"])
        worst = 100 * GridResult.read(Path("run/results.json")).worst_case[0]
        Path("mine/entry.toml").write_text(ENTRY.format(worst=worst), encoding="utf-8")
        submit()
    return folder


@pytest.fixture(autouse=True)
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test changes a copy of them."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


def submit(*options: str) -> None:
    cli.main(["submit", "mine/entry.toml", "--output", "rows", *SHORT, *options])


def test_an_entry_becomes_a_row_and_rows_a_table() -> None:
    (entry,) = read_entries(Path("rows"))
    assert entry.certified is not None
    assert entry.provenance["command"].startswith("robustdeq")
    for name in ("board.md", "board.html"):
        cli.main(["leaderboard", "rows", "--output", name])
        assert "a monotone DEQ" in Path(name).read_text(encoding="utf-8")
        cli.main(["leaderboard", "rows", "--output", name])


def test_what_cannot_be_used_ends_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def refused(sentence: str, *arguments: str) -> None:
        with pytest.raises(SystemExit) as stopped:
            cli.main([*arguments] or ["submit", "mine/entry.toml", "--output", "refused", *SHORT])
        said = " ".join(capsys.readouterr().err.split())
        assert stopped.value.code == 2
        assert sentence in said
        assert "Traceback" not in said
        assert not Path("refused").exists()

    entry, worst = Path("mine/entry.toml"), Path("mine/worst.safetensors")
    said, found = entry.read_text(encoding="utf-8"), load_file(worst)
    refused("holds no entries", "leaderboard", "nowhere")
    refused("entry.toml cannot be read", "submit", "nowhere/entry.toml")
    refused("ends in .html or .md", "leaderboard", "rows", "--output", "board.pdf")
    for changed, sentence in (
        (said.replace("images = 8", "images = 4000"), "has 400 test images"),
        (said.replace("model.safetensors", "missing.safetensors"), "missing.safetensors"),
        (said.replace("worst.safetensors", "entry.toml"), "holds no adversaries; make them with `robustdeq export`"),
    ):
        entry.write_text(changed, encoding="utf-8")
        refused(sentence)
    for setting, named in (("network", "model.safetensors"), ("data", "digits")):
        entry.write_text(said.replace(f'{setting} = "{named}"', f'{setting} = "mine/code.py:made"'), encoding="utf-8")
        Path("mine/code.py").write_text("raise AssertionError('it ran')", encoding="utf-8")
        refused(f"runs mine/code.py:made for its {setting}; read it, then pass --trust")
    entry.write_text(said, encoding="utf-8")
    save_file(found | {"labels": found["labels"].flip(0)}, worst)
    refused("are not those of the first 8 test images")
    save_file(found | {"adversaries": found["adversaries"] + 0.1}, worst)
    refused("outside [0, 1]")


def test_a_row_is_not_overwritten_unless_that_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = Path("rows").iterdir()
    before = row.read_bytes()
    with pytest.raises(SystemExit):
        submit()
    assert "exists already" in capsys.readouterr().err
    assert row.read_bytes() == before
    submit("--overwrite")
    assert "a monotone DEQ" in capsys.readouterr().out
    entry = Path("mine/entry.toml")
    entry.write_text(entry.read_text(encoding="utf-8").replace("a monotone DEQ", "a monotone: DEQ"), encoding="utf-8")
    capsys.readouterr()
    with pytest.raises(SystemExit):
        submit("--overwrite")
    assert "is the row of 'a monotone DEQ'; give this entry another name" in " ".join(capsys.readouterr().err.split())
