"""What is installed from a wheel brings the named weights along."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from robustdeq.zoo.registry import packaged_names

ROOT = Path(__file__).parents[1]

LOADED = """
import robustdeq as rd
from robustdeq.zoo.registry import locate, packaged_names
print(*packaged_names(), locate("conv-small-aligned")[0].parent, rd.load("conv-small-aligned").num_classes, sep="\\n")
"""


@pytest.mark.slow
def test_wheel_holds_the_named_weights_and_loads_them(tmp_path: Path) -> None:
    wheels = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is not installed")
    wheel = next(wheels.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"]))
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
