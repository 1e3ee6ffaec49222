"""The tutorial runs, cell by cell, and the strings of folders are taken wherever a path is."""

import json
import re
from pathlib import Path

import matplotlib as mpl
import pytest

ROOT = Path(__file__).parents[1]
CELLS = json.loads((ROOT / "examples/tutorial.ipynb").read_text(encoding="utf-8"))["cells"]


@pytest.mark.slow
def test_cells_run_one_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mpl.use("agg")
    code = "\n".join("".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code")
    short, found = re.subn(r"EPOCHS, IMAGES, STEPS = .*", "EPOCHS, IMAGES, STEPS = 1, 4, 1", code)
    short, cheaper = re.subn(r"dampings=\(1\.0,\)", "dampings=(1.0,), states=1", short)
    assert found == cheaper == 1
    known: dict[str, object] = {"__name__": "tutorial"}
    exec(compile(short, "tutorial.ipynb", "exec"), known)
    assert {"result", "better"} <= known.keys()


def test_links_lead_to_pages_that_exist() -> None:
    text = "".join("".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "markdown")
    links = re.findall(r"\]\((\.\./[^)]+)\)", text)
    assert links
    assert all((ROOT / "examples" / link).is_file() for link in links)
