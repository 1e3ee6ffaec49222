"""What is built holds what is needed: the archive of the source its tests, and the wheel from it the named weights."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import robustdeq as rd
from robustdeq.zoo.registry import packaged_names

ROOT = Path(__file__).parents[1]

LOADED = """
import robustdeq as rd
from robustdeq.zoo.registry import locate, packaged_names
print(*packaged_names(), locate("conv-small-aligned")[0].parent, rd.load("conv-small-aligned").num_classes, sep="\\n")
"""


def test_version_is_that_of_the_package() -> None:
    metadata = pytest.importorskip("hatchling.metadata.core", reason="hatchling is not installed")
    manager = pytest.importorskip("hatchling.plugin.manager")
    built = metadata.ProjectMetadata(str(ROOT), manager.PluginManager())
    assert built.dynamic == ["version"]
    assert built.version == rd.__version__


@pytest.mark.parametrize(
    ("file", "form"),
    [("CITATION.cff", r"^version: (\S+)"), ("README.md", r"version = \{(\S+)\}"), ("CHANGELOG.md", r"^## \[(\d\S+)\]")],
)
def test_what_names_the_version_names_this_one(file: str, form: str) -> None:
    newest, *_ = re.findall(form, (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
    assert newest == rd.__version__


@pytest.mark.slow
def test_wheel_from_the_source_archive_holds_the_named_weights_and_loads_them(tmp_path: Path) -> None:
    wheels = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is not installed")
    archives = pytest.importorskip("hatchling.builders.sdist")
    archive = next(archives.SdistBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"]))
    shutil.unpack_archive(archive, tmp_path, filter="data")
    source = tmp_path / Path(archive).name.removesuffix(".tar.gz")
    for folder in ("docs", "examples", "results", "src", "tests", "weights"):
        texts = [{file.relative_to(root) for file in (root / folder).rglob("*.[mp][dy]")} for root in (ROOT, source)]
        assert texts[0] == texts[1] != set()
    wheel = next(wheels.WheelBuilder(str(source)).build(directory=str(tmp_path), versions=["standard"]))
    assert Path(wheel).stat().st_size < 30e6
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "installed")
    run = subprocess.run(
        [sys.executable, "-c", LOADED],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
        check=True,
    )
    *names, folder, classes = run.stdout.splitlines()
    assert names == packaged_names()
    assert "conv-small-aligned" in names
    assert Path(folder) == tmp_path / "installed" / "robustdeq" / "weights"
    assert classes == "10"
    cards = {file.name for file in Path(folder).glob("*.md")}
    assert cards == {f"{name}.md" for name in names}
