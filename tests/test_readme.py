"""The numbers of the README are the stored ones."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from robustdeq.cli.demo import KEYS, TRAININGS
from robustdeq.evaluation import GridResult
from robustdeq.study.beyond.overestimate import readings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DEMO = ROOT / "results/demo"


@pytest.mark.parametrize(("name", "label"), [("unrolled", "the paper's way"), ("aligned", "through the solver")])
def test_table_of_the_demo_is_the_stored_one(name: str, label: str) -> None:
    found = json.loads((DEMO / "summary.json").read_text())
    *others, worst = (f"{found[name][key]:.1f}" for key in KEYS)
    low, high = found[name]["worst_case_interval"]
    assert TRAININGS[name][0].endswith(label)
    assert f"| {label} | {' | '.join(others)} | **{worst}** ({low:.1f}–{high:.1f}) |\n" in README
    outcomes = readings(GridResult.read(DEMO / name / "results.json"))
    assert [found[name][key] for key in KEYS] == pytest.approx((100 * outcomes.mean(axis=1)).tolist(), abs=0.05)


def test_what_a_longer_search_leaves_is_what_was_measured() -> None:
    final = [json.loads((DEMO / name / "searched.json").read_text())["defenses"][0] for name in TRAININGS]
    (paper, all_attacks) = (
        " and ".join(f"{100 * row[key]:.1f}" for row in final) for key in ("minimum_paper", "worst_case")
    )
    said = f"its best leaves {paper} %, and all attacks together {all_attacks} %."
    assert said in " ".join(README.split())


def test_what_is_said_of_other_machines_is_what_was_measured() -> None:
    runs = json.loads((DEMO / "machines.json").read_text())["runs"]
    said = re.search(
        r"With other seeds and other processor \[instructions\]\(\S+\) the digits differ: over (\d+) runs the "
        r"worst case is (\d+) to (\d+) points below the paper's best attack in the first row, "
        r"and (\d+) to (\d+) in the second\.",
        " ".join(README.split()),
    )
    assert said is not None
    gaps = [[run[name]["paper"] - run[name]["worst_case"] for run in runs] for name in ("unrolled", "aligned")]
    ends = [f"{end:.0f}" for gap in gaps for end in (np.floor(min(gap)), np.ceil(max(gap)))]
    assert list(said.groups()) == [str(len(runs)), *ends]
    assert len({run["instructions"] for run in runs}) == 2


def test_every_linked_cell_is_the_stored_number() -> None:
    (place,) = re.findall(r"^\[fast\]: (\S+)$", README, flags=re.MULTILINE)
    stored = json.loads((ROOT / place).read_text())["defenses"]
    expected = {
        "clean": [row["clean"] for row in stored],
        "the paper's best attack": [row["minimum_paper"] for row in stored],
        "worst case per image": [row["worst_case"] for row in stored],
    }
    lines = [line for line in README.splitlines() if "][fast]" in line]
    shown = {line.split("|")[1].strip(): re.findall(r"\[([\d.]+)\]\[fast\]", line) for line in lines}
    assert shown == {name: [f"{100 * value:.1f}" for value in values] for name, values in expected.items()}


def test_the_table_made_again_agrees_within_three_points() -> None:
    folders = (ROOT / "results" / name for name in ("small-cifar10-aligned-paper", "small-cifar10-aligned-again"))
    first, again = (json.loads((folder / "results.json").read_text()) for folder in folders)
    assert first["settings"]["fingerprint"] == again["settings"]["fingerprint"]
    for one, other in zip(first["defenses"], again["defenses"], strict=True):
        cells = [(one[key], other[key]) for key in ("clean", "minimum_paper", "worst_case")]
        cells += [(a["accuracy"], b["accuracy"]) for a, b in zip(one["attacks"], other["attacks"], strict=True)]
        assert all(abs(a - b) <= 0.03 for a, b in cells)


def test_readme_takes_a_minute() -> None:
    assert len(README.splitlines()) <= 130
