"""Settings, records and terminals that nobody expected: one sentence, or the work goes on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from robustdeq.base.errors import InputError
from robustdeq.base.files import read_text, write_text
from robustdeq.cli.commands import main
from robustdeq.data import load
from robustdeq.training.fitting import _run_of
from robustdeq.training.metrics import METRICS, rows_until, seconds_trained


def sentence(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as end:
        main([*arguments])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "Traceback" not in said
    return said


BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9))


@pytest.mark.parametrize(
    "content",
    [BOMB.encode(), b"a: &a [*a]", b"[" * 5000, b"model: \xff\xfe"],
    ids=["bomb", "endless", "deep", "not UTF-8"],
)
@pytest.mark.parametrize("option", [[], ["--config"]], ids=["recipe", "config"])
def test_hostile_yaml_ends_in_one_sentence(
    content: bytes, option: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.yaml").write_bytes(content)
    sentence("train", *option, str(tmp_path / "r.yaml"), capsys=capsys)


@pytest.mark.parametrize(
    "content",
    ["schedule: null", "optimization: null", "schedule: {seed: null}", "validation: {attack: null}"],
)
def test_null_settings_end_in_one_sentence(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.yaml").write_text(content)
    assert "give each a value" in sentence("train", str(tmp_path / "r.yaml"), capsys=capsys)


def test_seed_that_no_generator_takes_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    said = sentence("train", "small-fast", "--data", "digits", "--schedule.seed", str(2**63), capsys=capsys)
    assert f"seed is {2**63}; give 0 or a positive number below 2^63." in said


@pytest.mark.parametrize("content", ["5", "null", "[1]", "{", "[" * 100_000, '"x"'])
def test_word_of_a_run_that_is_none_ends_in_one_sentence(content: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(InputError, match=r"(is damaged|another)"):
        _run_of(tmp_path, {name: {"a": 1} for name in ("recipe", "model", "gradient", "data", "code")})


@pytest.mark.parametrize(
    "content", [b"step,seconds\nx,1\n", b"step,seconds\n1,x\n", b"a\n1\n", b"\xff\n", b"step\n1,2\n"]
)
def test_garbage_in_metrics_ends_in_one_sentence(content: bytes, tmp_path: Path) -> None:
    (tmp_path / METRICS).write_bytes(content)
    with pytest.raises(InputError, match=r"metrics.csv is damaged; delete it"):
        rows_until(tmp_path / METRICS, 10)
    assert seconds_trained(tmp_path) == 0


def test_data_at_a_path_that_is_not_utf_8_is_written_about(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"\xff\xfe")
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        PIL.Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / name / "1.png")
    source = load(folder).require("train").source
    write_text(tmp_path / "card.md", source)
    assert "\\udcff" in read_text(tmp_path / "card.md")
    assert json.loads(json.dumps(source)) == source


def test_terminal_without_greek_letters_is_printed_to() -> None:
    program = "import sys; from robustdeq.cli.commands import main; main(['--version']); print('\\u03b5')"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
    assert done.stdout.endswith(b"\\u03b5\n")


def test_pipe_in_the_place_of_a_text_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "entry.toml")
    with pytest.raises(OSError, match="no regular file"):
        read_text(tmp_path / "entry.toml")
