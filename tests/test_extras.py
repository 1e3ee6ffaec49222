"""The package works with the extras that are installed; what another one brings is asked for in one sentence."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from requirements import ALL, EXTRAS, installed_with

TESTS = Path(__file__).parent
BARE = """
import sys
from importlib.machinery import PathFinder
from importlib.metadata import DistributionFinder
from packaging.utils import canonicalize_name

class Bare(PathFinder):
    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        return None if fullname.partition(".")[0] in {missing} else super().find_spec(fullname, path, target)

    @classmethod
    def find_distributions(cls, context=DistributionFinder.Context()):
        return (found for found in PathFinder.find_distributions(context) if canonicalize_name(found.name) in {there})

sys.meta_path[sys.meta_path.index(PathFinder)] = Bare
"""
"""The start of a program to which the environment looks as if other distributions were not installed."""

SAID = """
import contextlib, io, json, os, sys
import torch
import core
import robustdeq as rd
from robustdeq.cli import main
from robustdeq.evaluation.distributed import launch

def said(use):
    error = io.StringIO()
    try:
        with contextlib.redirect_stderr(error):
            exec(use)
    except rd.InputError as sentence:
        return str(sentence)
    except SystemExit as end:
        assert end.code == 2
        return error.getvalue().removeprefix("robustdeq: ")

json.dump([said(use) for use in json.loads(sys.argv[1])], sys.stdout)
"""
USES = {
    "rd.training.fit": "train",
    "rd.training.Training": "train",
    "os.environ |= {'TORCHELASTIC_RUN_ID': '', 'WORLD_SIZE': '2'}; launch(2, 1, 'cpu')": "train",
    "rd.attacks.AutoAttack()": "attacks",
    "rd.attacks.Square()": "attacks",
    "rd.evaluation.measure(core.model(), torch.rand(6, 4), torch.arange(6) % 3, early=2)": "attacks",
    "rd.data.load('digits')": "data",
    "rd.data.load('cifar10')": "data",
    "rd.data.load('test.parquet')": "data",
    "rd.data.load('parquets')": "data",
    "rd.data.load('images')": "data",
    "rd.reporting": "report",
    "main(['evaluate', 'monotone-digits-dense', '--data', 'digits'])": "report",
    "main(['train', '--help-all'])": "report",
}
"""What needs an extra, and which."""


def alone(code: str, folder: Path, extras: Sequence[str] = (), argument: str = "") -> str:
    """What a program prints where nothing but the package with some extras is installed."""
    there, missing = installed_with(*extras)
    done = subprocess.run(
        [sys.executable, "-c", BARE.format(there=there, missing=missing) + code, argument],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*filter(None, sys.path), str(TESTS)])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_all_is_every_extra() -> None:
    (whole,) = ALL
    assert (whole.name, whole.extras) == ("robustdeq", {*EXTRAS})


def test_core_solves_attacks_measures_and_certifies(tmp_path: Path) -> None:
    assert "worst case" in alone("import core; core.main()", tmp_path)


def test_every_part_that_lacks_an_extra_says_so_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "test.parquet").touch()
    for file in ("parquets/test.parquet", "images/test/one/1.png"):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).touch()
    sentences = json.loads(alone(SAID, tmp_path, argument=json.dumps([*USES])))
    for (use, extra), sentence in zip(USES.items(), sentences, strict=True):
        start, _, end = (sentence or "").partition(f'; pip install "robustdeq[{extra}]" ')
        assert re.fullmatch(r"\w+ is not installed", start), (use, sentence)
        assert end.strip() == 'brings it, and "robustdeq[all]" all that the command line needs.', (use, sentence)


PARTS = {
    "attacks": """
import torch, core, robustdeq as rd
deq, x = core.model().eval(), torch.rand(4, 4)
attack = rd.attacks.APGD(eps=0.3, steps=3)
assert attack(deq, x, deq(x).argmax(dim=1)).shape == x.shape
""",
    "data": """
from pathlib import Path
import pyarrow, pyarrow.parquet, robustdeq as rd
from PIL import Image
assert len(rd.data.load("digits").require("test")) == 400
pyarrow.parquet.write_table(pyarrow.table({"x": [0.5, 1.5], "label": [0, 1]}), "test.parquet")
assert len(rd.data.load("test.parquet").require("test")) == 2
for name in ("a", "b"):
    Path("images/test", name).mkdir(parents=True)
    Image.new("L", (4, 4)).save(Path("images/test", name, "1.png"))
assert rd.data.load("images").require("test").classes == ("a", "b")
""",
    "report": """
import torch, core, robustdeq as rd
deq, x = core.model().eval(), torch.rand(4, 4)
paper = rd.evaluation.Paper(rd.attacks.PGD(eps=0.3, step_size=0.1, steps=1))
result = rd.evaluation.measure(deq, x, deq(x).argmax(dim=1), paper, early=2)
result.save("run/results.json")
rd.reporting.export(result, "table.parquet")
rd.reporting.save_page([rd.reporting.read_run("run")], "page.html")
""",
    "train": """
import torch, robustdeq as rd
from robustdeq.data import Images, Splits
images = Images(torch.zeros(8, 1, 8, 8, dtype=torch.uint8), torch.arange(8), tuple("abcdefghij"), "nothing")
schedule = rd.training.Schedule(max_steps=1, batch_size=4, validation_images=4, validations=1)
recipe = rd.training.Recipe(schedule=schedule, augmentation=None)
rd.training.fit(rd.models.conv("digits", in_channels=1), Splits(images, images, images), recipe, "run")
""",
}


@pytest.mark.parametrize("extra", PARTS)
def test_a_part_needs_no_other_extra_than_its_own(extra: str, tmp_path: Path) -> None:
    alone(PARTS[extra], tmp_path, [extra])
    assert {*PARTS} == {*EXTRAS}


def test_evaluation_in_one_process_runs_without_lightning_and_autoattack(tmp_path: Path) -> None:
    few = "-n 1 --early 1 --attack.steps 1 --estimators.steps [1] --estimators.dampings [1.0] --estimators.states 1"
    command = ["evaluate", "monotone-digits-dense", "--data", "digits", *few.split()]
    printed = alone(f"from robustdeq.cli import main; main({command})", tmp_path, ["data", "report"])
    assert "worst case" in printed
