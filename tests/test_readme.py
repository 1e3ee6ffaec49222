"""The tables of the README that can be made again hold the stored numbers."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_every_linked_cell_is_the_stored_number() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (place,) = re.findall(r"^\[aligned\]: (\S+)$", text, flags=re.MULTILINE)
    stored = json.loads((ROOT / place).read_text())["defenses"]
    expected = {
        "**clean**": [row["clean"] for row in stored],
        "**minimum of the paper's columns**": [row["minimum_paper"] for row in stored],
        "**worst case per image, all attacks**": [row["worst_case"] for row in stored],
    } | {
        column["name"]: [row["attacks"][j]["accuracy"] for row in stored]
        for j, column in enumerate(stored[0]["attacks"])
    }
    lines = [line for line in text.splitlines() if "][aligned]" in line and line.startswith("|")]
    shown = {line.split("|")[1].strip(): re.findall(r"\[([\d.]+)\]\[aligned\]", line) for line in lines}
    assert shown == {name: [f"{100 * value:.1f}" for value in values] for name, values in expected.items()}


def test_the_table_made_again_agrees_within_three_points() -> None:
    folders = (ROOT / "results" / name for name in ("small-cifar10-aligned-paper", "small-cifar10-aligned-again"))
    first, again = (json.loads((folder / "results.json").read_text()) for folder in folders)
    assert first["settings"]["fingerprint"] == again["settings"]["fingerprint"]
    for one, other in zip(first["defenses"], again["defenses"], strict=True):
        cells = [(one[key], other[key]) for key in ("clean", "minimum_paper", "worst_case")]
        cells += [(a["accuracy"], b["accuracy"]) for a, b in zip(one["attacks"], other["attacks"], strict=True)]
        assert all(abs(a - b) <= 0.03 for a, b in cells)


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_table_of_the_demo_is_the_stored_one(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    stored = json.loads((ROOT / "docs/images/demo.json").read_text())["defenses"]
    rows = {
        column["name"]: [row["attacks"][j]["accuracy"] for row in stored]
        for j, column in enumerate(stored[0]["attacks"])
    }
    rows["**worst case per image, all attacks**"] = [row["worst_case"] for row in stored]
    for name, values in rows.items():
        mark = "**" if "**" in name else ""
        assert f"| {name} | " + " | ".join(f"{mark}{100 * value:.1f}{mark}" for value in values) + " |\n" in text
