"""The numbers of the README are the stored ones."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from robustdeq.cli.demo import KEYS, TRAININGS
from robustdeq.evaluation import GridResult
from robustdeq.study import Reproduction
from robustdeq.study.beyond.overestimate import readings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DEMO = ROOT / "results/demo"
STUDY = Reproduction.read(ROOT / "results/reproduction-conv-small/overestimate.json")
WAYS = {"(8/7) Unrolling-Trained": "unrolled", "(8/7) Exact-Trained": "exact, 8/7"}
FORMS = (".1f", ".1f", ".1f", ".2g")


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
    assert len({run["instructions"] for run in runs}) >= 2


def test_table_on_cifar10_is_the_stored_one() -> None:
    seen, _, less, p = STUDY.panels
    assert seen.low is not None
    assert seen.high is not None
    for row, values, low, high in zip(seen.rows, seen.values, seen.low[:, -1], seen.high[:, -1], strict=True):
        way, _, seed = row.partition(", ")
        *others, worst = (f"{value:.1f}" for value in values)
        assert f"| {WAYS[way]}, {seed} | {' | '.join(others)} | **{worst}** ({low:.1f}–{high:.1f}) |\n" in README
    assert less.low is not None
    assert less.high is not None
    said = re.findall(r"(−?[\d.]+) points \((−?[\d.]+) to (−?[\d.]+), p = ([\d.e−]+)\)", " ".join(README.split()))
    for found, reading in zip(said, ("Ready-made", "Worst case"), strict=True):
        j = less.columns.index(reading)
        stored = (less.values[0, j], less.low[0, j], less.high[0, j], p.values[0, j])
        assert found == tuple(f"{value:{form}}".replace("-", "−") for value, form in zip(stored, FORMS, strict=True))


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
