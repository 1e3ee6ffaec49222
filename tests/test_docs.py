"""The documentation keeps its word: every block of Python runs, page by page, and every command line is one."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import torch

import robustdeq as rd
import robustdeq.leaderboard  # its settings are made by protocols as they are, before any is shortened here
from robustdeq import cli
from robustdeq.data import Images
from robustdeq.evaluation import Estimators, Paper, Strict, WorstCase

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = ROOT / "src/robustdeq"
BLOCK = re.compile(r"^```python\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^(?: {4})?(robustdeq (?:[^\n]*\\\n)*[^\n]*)", flags=re.MULTILINE)
PLACE = re.compile(r"`((?:tests|results|examples|src|docs|weights)/[\w./-]*\w)`")
FILE = re.compile(r"`([\w/]+\.py)`")
EQUATION = re.compile(r"^\| \((\d+)\)(?:\D+(\d+)\))? \|.*\| ([^|]+) \|$", flags=re.MULTILINE)
ELSEWHERE = ("from robustbench", "from_checkpoint(")
"""What stands in blocks that need another package, or a file of somebody else's."""
SEARCHED = Estimators(steps=(1,), dampings=(1.0,), states=1)
FEW = {"steps": 1, "restarts": 1, "apgd_steps": 2, "targets": 1, "queries": 2, "probe_images": 2}


def blocks(page: Path) -> list[str]:
    """The blocks of Python of a page."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [block for block in found if not any(mark in block for mark in ELSEWHERE)]


def commands(page: Path) -> list[str]:
    """The command lines of a page, without comments, and without those that leave something out."""
    found = COMMAND.findall(page.read_text(encoding="utf-8"))
    lines = (re.split(r"\s+# ", command.replace("\\\n", " "))[0] for command in found)
    return [line for line in lines if "…" not in line]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem)
def test_blocks_run_one_after_another(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "examples")
    torch.manual_seed(0)
    rd.save(rd.models.conv("digits", in_channels=1).eval(), "runs/demo/unrolled/model.safetensors")
    head = Images.head
    monkeypatch.setattr(Images, "head", lambda self, n: head(self, min(n, 3)))
    for protocol in (Strict, WorstCase):
        shortened = lambda attack, *_, of=protocol, **__: of(attack, SEARCHED, **FEW)  # noqa: E731
        monkeypatch.setattr(rd.evaluation, protocol.__name__, shortened)
    monkeypatch.setattr(rd.evaluation, "Paper", lambda attack, *_: Paper(attack, SEARCHED))
    known = {"__name__": "page"}
    monkeypatch.setitem(sys.modules, "page", type(sys)("page"))
    for block in blocks(page):
        exec(compile(block, page.name, "exec"), known)


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.stem)
def test_command_lines_name_commands_and_options_that_exist(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in commands(page):
        _, name, *arguments = shlex.split(command)
        with pytest.raises(SystemExit) as stopped:
            cli.main([name, "--help-all"])
        assert stopped.value.code == 0, command
        described = capsys.readouterr().out
        for argument in arguments:
            if argument.startswith("--"):
                option = re.split(r"[=.]", argument)[0]
                assert re.search(rf"{option}\b", described), f"{option} in {command}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_that_are_named_are_there(page: Path) -> None:
    for place in PLACE.findall(page.read_text(encoding="utf-8")):
        assert (ROOT / place).exists(), place


def test_every_equation_is_named_in_a_file_that_computes_it() -> None:
    page = (ROOT / "docs/mathematics.md").read_text(encoding="utf-8").partition("## Every equation")[2]
    found: list[int] = []
    for first, last, places in EQUATION.findall(page):
        text = "".join((SOURCES / place).read_text(encoding="utf-8") for place in FILE.findall(places))
        named = {int(number) for some in re.findall(r"Eqs?\. ([\d, –]+)", text) for number in re.findall(r"\d+", some)}
        assert {int(first), int(last or first)} <= named, places
        found += range(int(first), int(last or first) + 1)
    assert found == [*range(1, 18)]
    assert all((SOURCES / place).is_file() for place in FILE.findall(page))
