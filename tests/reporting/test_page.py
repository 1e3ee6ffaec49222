"""The page says what the results say, loads nothing, and refuses what cannot be reported."""

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from plotly.colors import hex_to_rgb, sample_colorscale, unlabel_rgb
from typing_extensions import override

from cells import make_deq
from robustdeq.attacks import PGD
from robustdeq.base.errors import InputError
from robustdeq.evaluation import Check, CheckVerdict, Estimators, GridResult, StateProfile, wilson_interval
from robustdeq.evaluation.column import Row
from robustdeq.evaluation.exhibits import FILE, Exhibits
from robustdeq.evaluation.protocol import Network
from robustdeq.evaluation.protocols import PROTOCOLS, protocol_named
from robustdeq.evaluation.store import FILE as STORE
from robustdeq.evaluation.store import Finished, Outcome, StatesOfBatch, Store
from robustdeq.gradients import Surrogate
from robustdeq.reporting.columns import ready_made
from robustdeq.reporting.page import save_page
from robustdeq.reporting.page.charts import heat_map, templates
from robustdeq.reporting.page.comparison import comparison_chart
from robustdeq.reporting.page.grid_charts import grid_chart, headline
from robustdeq.reporting.page.panel_chart import panel_chart
from robustdeq.reporting.page.pictures import shown
from robustdeq.reporting.runs import ReportedRun, read_evaluation, read_run
from robustdeq.reporting.wording import label, threat
from robustdeq.study import Drawing, Panel, Reproduction, published

EVIL = "</script><script>alert(1)</script> & <b>co</b>"
RNG = np.random.default_rng(0)
GRID = GridResult(
    defenses=("final", "early (z_2)", "ensemble"),
    columns=("unrolled intermediates, final", "through the solver, early", "no gradient, Square"),
    gradients=("Phantom(steps=9, damping=0.5)", "ThroughSolver(defense=EarlyState(n=2), checkpoint=False)", "Square()"),
    beyond_paper=(False, True, True),
    clean=RNG.random((3, 40)) < 0.9,
    per_sample=RNG.random((3, 3, 40)) < np.array([0.8, 0.6, 0.5])[:, None],
    profiles={
        "clean": StateProfile([0.2, 0.95, 0.9], [1.0, 0.1, 0.01]),
        "ready-made attack": StateProfile([0.1, 0.4, 0.5], [2.0, float("inf"), 0.3]),
    },
    settings={
        "protocol": "strict",
        "attack": {"eps": 8 / 255, "norm": "Linf", "bounds": [0.0, 1.0]},
        "command": "robustdeq evaluate <model>",
    },
    cumulative=(False, False, True),
    ready_made=(True, False, False),
    errors=(0, 2, 0),
    checks=(
        Check(
            "zero gradients",
            CheckVerdict.PASSED,
            "No image has a zero gradient.",
            {"final": {"share with zero gradient": 0.0}},
        ),
        Check(
            "more steps do not help", CheckVerdict.FAILED, "They do worse.", {"final": {"one run": 0.25, "p": 0.012}}
        ),
    ),
)
PANELS = tuple(
    Panel(
        f"accuracy, {drawing}",
        "%",
        ("u_1", "u_2"),
        ("z_1", "z_2", "z_3"),
        np.array([[50.0, 40.0, np.nan], [12.5, 30.0, 70.0]]),
        "Adjoint state",
        "State",
        low=np.full((2, 3), 10.0),
        high=np.full((2, 3), 80.0),
        paper=np.array([[49.0, np.nan, np.nan], [11.5, 30.0, np.nan]]),
        drawing=drawing,
    )
    for drawing in Drawing
)
REPRODUCTION = Reproduction("fig4", "Fig. 4", "Alignment", PANELS, "u_{n+1} hurts z_n most.", {"scale": "nano"})
EXHIBITS = Exhibits(
    images=torch.full((2, 1, 8, 8), 0.5),
    adversaries=torch.full((2, 1, 8, 8), 0.5) + torch.linspace(-0.25, 0.25, 64).view(1, 1, 8, 8),
    labels=torch.tensor([0, 1]),
    classes=("zero", "one", "two"),
    clean=torch.tensor([[[0.2, 0.7, 0.1], [0.9, 0.1, 0.0]], [[0.1, 0.8, 0.1], [0.1, 0.8, 0.1]]]),
    attacked=torch.tensor([[[0.2, 0.7, 0.1], [0.3, 0.1, 0.6]], [[0.1, 0.8, 0.1], [0.1, 0.8, 0.1]]]),
    estimates=("adjoint u_n", "SHINE"),
    cosines=torch.tensor([[[0.5, 0.7], [1.0, 1.0]], [[-0.5, 0.0], [0.2, 0.4]]]),
    attack="PGD(eps=0.25)",
)
DEQ = ReportedRun("strict", GRID, EXHIBITS, PANELS[0], (REPRODUCTION,))
NETWORK = ReportedRun(
    "resnet",
    GridResult(
        ("as it is",),
        ("network, PGD, 10 steps", "network, apgd-ce"),
        ("its own", "its own"),
        (False, True),
        np.ones((1, 8), dtype=bool),
        np.arange(16).reshape(1, 2, 8) % 3 > 0,
        settings={"protocol": "network"},
        ready_made=(True, False),
    ),
    None,
    None,
    (),
)
PANELS_ONLY = ReportedRun("panels", None, None, None, (REPRODUCTION,))
RUNS = (DEQ, NETWORK, PANELS_ONLY)


class Reader(HTMLParser):
    """The elements of a page with their attributes and text, and its tables as rows of cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.feed(text)

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        match tag:
            case "table":
                self.tables.append([])
            case "tr":
                self.tables[-1].append([])
            case "td" | "th":
                self.tables[-1][-1].append("")
            case "script":
                self.scripts.append("")

    @override
    def handle_data(self, data: str) -> None:
        match self.elements[-1][0] if self.elements else "":
            case "td" | "th":
                self.tables[-1][-1][-1] += data.strip()
            case "script":
                self.scripts[-1] += data
        self.text.append(data)

    def attributes(self, *tags: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.elements if tag in tags]


def read(path: Path, *runs: ReportedRun) -> Reader:
    save_page(runs, path / "page.html")
    return Reader((path / "page.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    return read(tmp_path_factory.mktemp("page"), *RUNS)


def cell(successes: int, trials: int) -> str:
    low, high = wilson_interval(successes, trials)
    return f"{100 * successes / trials:.1f} ({100 * low:.1f}–{100 * high:.1f})"


def test_table_has_every_number_of_the_grid(page: Reader) -> None:
    head, *body = page.tables[0]
    rows = {name: cells for name, *cells in body}
    assert head == ["attack", "final", "early (z₂)", "ensemble", "kind", "gradient"]
    assert rows["clean"][:3] == [cell(int(row.sum()), 40) for row in GRID.clean]
    for j, (name, kind) in enumerate(
        [("", "the paper's"), ("", "beyond the paper"), (" ↓", "beyond the paper, on survivors")]
    ):
        counted = [cell(int(GRID.per_sample[i, j].sum()), 40) for i in range(3)]
        assert rows[GRID.columns[j] + name] == [*counted, kind, GRID.gradients[j]]
    standing = (GRID.clean & GRID.per_sample.all(axis=1)).sum(axis=1)
    assert rows["worst case per image, all attacks"][:3] == [cell(int(n), 40) for n in standing]
    assert rows["minimum of the paper's columns"][:3] == [f"{100 * row[0].mean():.1f}" for row in GRID.per_sample]
    assert rows["images with logits that are not finite"][:3] == ["0", "2", "0"]


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_heat_map_shows_the_grid_and_tells_what_is_behind_a_cell(data: st.DataObject) -> None:
    outcomes = st.lists(st.booleans(), min_size=6 * 5, max_size=6 * 5).map(lambda bits: np.array(bits).reshape(3, 2, 5))
    per_sample = data.draw(outcomes)
    result = replace(GRID, columns=("a", "b"), gradients=("A()", "B()"), beyond_paper=(False, True), cumulative=())
    result = replace(result, clean=per_sample[:, 0], per_sample=per_sample)
    (trace,) = grid_chart(result).plain["data"]
    shares = per_sample.sum(axis=2) / 5
    expected = [shares[:, 0], shares[:, 0], shares[:, 1], (per_sample[:, 0] & per_sample[:, 1]).sum(axis=1) / 5]
    np.testing.assert_allclose(trace["z"], 100 * np.array(expected))
    for i, j in np.ndindex(3, 2):
        low, high = wilson_interval(int(per_sample[i, j].sum()), 5)
        said = trace["customdata"][1 + j][i]
        assert f"{100 * shares[i, j]:.1f} % of 5 images; 95 % interval {100 * low:.1f}–{100 * high:.1f} %" in said
        assert f"gradient: {'AB'[j]}()" in said
        assert ("beyond the paper" in said) == result.beyond_paper[j]


def test_headline_is_the_worst_case_of_the_model_as_deployed() -> None:
    standing = (GRID.clean & GRID.per_sample.all(axis=1)).sum(axis=1)
    low, high = wilson_interval(int(standing[0]), 40)
    said = headline(GRID)
    assert said.sentence.startswith(f"{100 * standing[0] / 40:.1f} % of 40 images")
    assert "every one of 3 attacks with ε = 8/255 (L∞)" in said.sentence
    assert f"{100 * low:.1f}–{100 * high:.1f} %" in said.sentence
    assert f"the model as it is deployed, “{label(GRID.defenses[0])}”" in said.sentence
    for name, count in zip(GRID.defenses[1:], standing[1:], strict=True):
        assert f"“{label(name)}” keeps {100 * count / 40:.1f} %" in said.sentence
    worst, clean, claimed = said.measures
    ready = GRID.per_sample[0, 0].sum()
    assert (worst.value, clean.value) == tuple(f"{100 * n / 40:.1f}" for n in (standing[0], GRID.clean[0].sum()))
    assert claimed.value == f"{100 * ready / 40:.1f}"
    gap = ready - standing[0]
    assert (f"overrates it by {100 * gap / 40:.1f} points" if gap else "overrates nothing here") in claimed.note


def test_a_cumulative_column_is_never_called_a_single_attack() -> None:
    alone = replace(GRID, cumulative=(False, True, True))
    assert f"single attack on “{label(GRID.defenses[0])}” is “{label(GRID.columns[0])}”" in grid_chart(alone).finding
    assert "single" not in grid_chart(replace(GRID, cumulative=(True, True, True))).finding


@pytest.mark.parametrize("name", [*PROTOCOLS, "network"])
def test_column_of_the_ready_made_attack_is_found_in_every_protocol(name: str) -> None:
    deq = make_deq().eval()
    protocol = Network() if name == "network" else protocol_named(name)
    rows = [Row(id, deq, defense) for id, defense in protocol.defenses(2).items()]
    columns = [column for column in protocol.columns(deq, rows, {}) if column.role.shown]
    labels = tuple(column.label for column in columns)
    one = np.ones((1, len(labels), 1), dtype=bool)
    marks = tuple(column.ready_made for column in columns)
    result = GridResult(("row",), labels, labels, (False,) * len(labels), one[:, 0], one, ready_made=marks)
    found = ready_made(result)
    assert found is not None
    (attempt,) = columns[found].attempts
    surrogate = Surrogate(deq, Estimators().final)
    assert name == "network" or attempt.climbs.module.gradient == surrogate.gradient
    assert name == "autoattack" or attempt.attack == PGD()
    assert ready_made(replace(result, ready_made=())) is None


def test_page_loads_nothing(page: Reader) -> None:
    addresses = [
        value for _, attributes in page.elements for key, value in attributes.items() if key in ("src", "data")
    ]
    addresses += [attributes["href"] for attributes in page.attributes("link")]
    assert all(address.startswith("data:") for address in addresses)
    assert all("src" not in attributes for attributes in page.attributes("script"))
    links = [attributes["href"] for attributes in page.attributes("a")]
    assert [link for link in links if not link.startswith(("#", "data:"))] == ["https://arxiv.org/abs/2306.01429"]
    policy = next(a["content"] for a in page.attributes("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert not {"iframe", "object", "embed", "audio", "video", "base", "form"} & {tag for tag, _ in page.elements}


def test_every_chart_says_what_it_shows_and_has_a_table(page: Reader) -> None:
    charts = [attributes for attributes in page.attributes("div") if attributes.get("class") == "chart"]
    panels = 2 * len(PANELS)
    assert len(charts) == 1 + 2 + 2 + 2 + panels + 1 + 1
    assert all(chart["role"] == "img" and len(chart["aria-label"].split()) > 4 for chart in charts)
    assert len(page.tables) == len(charts) + len(GRID.checks)


def test_identifiers_are_unique_and_headings_leave_no_level_out(tmp_path: Path) -> None:
    page = read(tmp_path, DEQ, DEQ, replace(NETWORK, name="strict"))
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    assert [a["value"] for a in page.attributes("input")] == ["strict", "strict-2", "strict-3"]
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_names_are_text_and_never_markup(tmp_path: Path, page: Reader) -> None:
    evil = replace(
        GRID,
        defenses=(EVIL, "two", "three"),
        columns=(EVIL, "b", "c"),
        gradients=(EVIL, "b", "c"),
        settings={EVIL: EVIL},
        checks=(Check(EVIL, CheckVerdict.TOO_FEW, EVIL, {EVIL: {EVIL: 0.5}}),),
    )
    panel = replace(PANELS[0], title=EVIL, rows=(EVIL, "b"))
    found = read(tmp_path, ReportedRun(EVIL, evil, replace(EXHIBITS, classes=(EVIL, "b", "c")), panel, ()))
    assert not any("alert(1)" in script for script in found.scripts[-1:])
    assert len(found.scripts) == 1 + 2 + 2 + 2 + 1 + 3
    drawn = [json.loads(script) for script in found.scripts[:-2]]
    assert not any("<script" in json.dumps(chart) or "<b>co" in json.dumps(chart) for chart in drawn)
    assert found.text.count(EVIL) > 5


def test_network_and_reproductions_alone_have_what_there_is(page: Reader, tmp_path: Path) -> None:
    said = "".join(page.text)
    assert "this network has no solver" in said
    assert "PGD alone" in page.text
    alone = read(tmp_path, PANELS_ONLY)
    assert "Beside the paper" not in alone.text
    assert not alone.attributes("fieldset")
    assert len(alone.tables) == len(PANELS)


def test_checks_speak_in_words(page: Reader, tmp_path: Path) -> None:
    said = "".join(page.text)
    assert re.search(r"Passed\s*zero gradients\s*No image has a zero gradient\.", said)
    assert re.search(r"Failed\s*more steps do not help\s*They do worse\.", said)
    assert [["defense", "one run", "p"], ["final", "25.0 %", "0.012"]] in page.tables
    none = read(tmp_path, replace(DEQ, result=replace(GRID, checks=(), settings={"protocol": "paper"})))
    assert "`robustdeq evaluate WEIGHTS --protocol worst-case`" in "".join(none.text)


def test_download_is_the_result(page: Reader, tmp_path: Path) -> None:
    links = {a["download"]: a["href"].partition("base64,")[2] for a in page.attributes("a") if "download" in a}
    assert json.loads(base64.b64decode(links["strict.json"])) == json.loads(json.dumps(GRID.to_dict()))
    (tmp_path / "fig4.json").write_bytes(base64.b64decode(links["panels-fig4.json"]))
    REPRODUCTION.save(tmp_path / "ours.json")
    assert json.loads((tmp_path / "fig4.json").read_text()) == json.loads((tmp_path / "ours.json").read_text())


def test_panel_shows_its_numbers_and_the_papers() -> None:
    for panel in PANELS:
        table = panel_chart(panel).table
        assert (table.corner, *table.columns) == ("Adjoint state", "z_1", "z_2", "z_3")
        first, second = ([cell.text for cell in row.cells] for row in table.rows)
        assert first == ["50.0 (10.0–80.0) / 49.0", "40.0 (10.0–80.0)", "– (10.0–80.0)"]
        assert second[1] == "30.0 (10.0–80.0) / 30.0"
    heat, curves, bars, scatter = (panel_chart(panel).plain["data"] for panel in PANELS)
    assert [(trace["x"], trace["y"]) for trace in scatter] == [([50.0, 12.5], [40.0, 30.0])]
    assert heat[0]["z"] == [[50.0, 40.0, None], [12.5, 30.0, 70.0]]
    assert [trace["y"] for trace in curves] == [
        [50.0, 40.0, None],
        [49.0, None, None],
        [12.5, 30.0, 70.0],
        [11.5, 30.0, None],
    ]
    assert [curves[0]["error_y"][arm] for arm in ("array", "arrayminus")] == [[30.0, 40.0, 0.0], [40.0, 30.0, 0.0]]
    assert [bars[0]["error_x"][arm] for arm in ("array", "arrayminus")] == [[30.0, 67.5], [40.0, 2.5]]
    assert [trace["x"] for trace in bars] == [
        [50.0, 12.5],
        [40.0, 30.0],
        [None, 70.0],
        [49.0, 11.5],
        [None, 30.0],
        [None, None],
    ]


def test_comparison_has_the_papers_table_4_and_every_run() -> None:
    assert DEQ.result is not None and NETWORK.result is not None
    table = comparison_chart([("a", DEQ.result), ("b", NETWORK.result)]).table
    rows = {row.name.replace("\u00a0", " "): [cell.text for cell in row.cells[1:]] for row in table.rows}
    for name, key in {
        "ResNet-18 (Table 4)": "resnet18",
        "WRN-34-10 (Table 4)": "wrn34-10",
        "DEQ-Large, unrolled, ensemble (Tables 2–4)": "large",
        "DEQ-XL, unrolled, ensemble (Tables 3 and 4)": "xl",
    }.items():
        assert rows[f"paper: {name}"] == [*(f"{value:.1f}" for value in published.COMPARISON[key]), "–"]
    standing = NETWORK.result.per_sample.all(axis=1).sum()
    assert rows["b"] == [cell(8, 8), cell(int(NETWORK.result.per_sample[0, 0].sum()), 8), "–", cell(int(standing), 8)]


def test_pictures_are_the_images_and_their_difference() -> None:
    first = shown(EXHIBITS)[0]

    def pixels(address: str) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition("base64,")[2]))))

    ramp = np.linspace(-0.25, 0.25, 64).reshape(8, 8)
    np.testing.assert_allclose(pixels(first.clean), 127.5, atol=0.6)
    np.testing.assert_allclose(pixels(first.adversary), 255 * (0.5 + ramp), atol=0.6)
    np.testing.assert_allclose(pixels(first.perturbation), 255 * (0.5 + 2 * ramp), atol=0.6)
    assert (first.true, first.seen, first.fooled, first.stands) == ("zero", "zero (90 %)", "two (60 %)", False)
    lines = {trace["name"]: trace["y"] for trace in first.chart.plain["data"]}
    np.testing.assert_allclose(lines["zero, clean"], [20, 90], rtol=1e-6)
    np.testing.assert_allclose(lines["two, attacked"], [10, 60], rtol=1e-6)
    assert set(lines) == {f"{name}, {how}" for name in EXHIBITS.classes for how in ("clean", "attacked")}


def contrast(*colors: tuple[float, ...]) -> float:
    """The ratio of two colours, each from 0 to 255, as WCAG 2.2 defines it."""

    def luminance(color: tuple[float, ...]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in np.asarray(color) / 255]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    darker, lighter = sorted(map(luminance, colors))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize(("theme", "ground"), [("light", "#ffffff"), ("dark", "#15181c")])
def test_charts_stand_out_from_the_page(theme: str, ground: str) -> None:
    layout = templates()[theme]["layout"]
    assert contrast(hex_to_rgb(layout["font"]["color"]), hex_to_rgb(ground)) >= 4.5
    assert all(contrast(hex_to_rgb(color), hex_to_rgb(ground)) >= 4.5 for color in layout["colorway"])


def test_numbers_in_cells_stand_out_from_their_colour() -> None:
    values = [*range(0, 101, 4)]
    words = ["x"] * len(values)
    (text,) = heat_map(["row"], [*map(str, values)], [values], [words], [words], (0.0, 100.0)).data[0].text
    for value, written in zip(values, text, strict=True):
        ink = hex_to_rgb(re.findall("#[0-9a-f]{6}", written)[0])
        assert contrast(ink, unlabel_rgb(sample_colorscale("Cividis", value / 100)[0])) >= 4.5


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        ({"eps": 8 / 255, "norm": "Linf"}, "ε = 8/255 (L∞)"),
        ({"eps": 0.25, "norm": "Linf"}, "ε = 0.25 (L∞)"),
        ({"eps": 128 / 255, "norm": "L2"}, "ε = 0.501961 (L2)"),
        ({}, ""),
    ],
)
def test_threat_model_in_words(attack: dict[str, Any], said: str) -> None:
    assert threat({"attack": attack}) == said


def test_indices_of_states_are_set_and_names_of_other_things_are_not() -> None:
    assert label("early (z_12), adjoint u_n and u_{n+1}") == "early (z₁₂), adjoint uₙ and uₙ₊₁"
    assert label("jazz_3, z_new") == "jazz_3, z_new"


BATCHES, STATES = 2, 3
MANIFEST: dict[str, Any] = {
    "weights": "w",
    "data": "d",
    "code": "c",
    "environment": {"torch": "2"},
    "settings": {"protocol": "paper"},
    "batches": BATCHES,
    "rows": [{"id": "final", "title": "final"}],
    "columns": [
        {
            "id": "unrolled-final",
            "label": "unrolled intermediates, final",
            "attempts": [{"key": "PGD", "climbs": "Phantom()", "settings": {"against": None}}],
            "cumulative": False,
            "ready_made": True,
            "role": "paper",
            "rule": "the attempt that hurts the searched row most",
        }
    ],
    "searched": 0,
    "adjoints": {"u_1": "first", "u_2": "second"},
}


def write_store(
    folder: Path, keys: tuple[str, ...], manifest: dict[str, Any] = MANIFEST
) -> dict[tuple[str, int], np.ndarray]:
    """A store with these attempts, four images a batch; what the head makes of every state."""
    rng, accurate = np.random.default_rng(1), {}
    with Store.create(folder / STORE, manifest) as store:
        for key in keys:
            for batch in range(BATCHES):
                accurate[key, batch] = rng.random((4, STATES)) < 0.5
                states = StatesOfBatch(accurate[key, batch], rng.random((4, STATES)))
                standing = rng.random((1, 4)) < 0.5
                store.commit(key, batch, Finished(Outcome(standing, ~standing & standing, standing[0]), 0.1, states))
    return accurate


def test_folder_is_read_with_everything_in_it(tmp_path: Path) -> None:
    accurate = write_store(tmp_path, ("clean", "PGD", "first", "second"))
    (tmp_path / "results.json").write_text(json.dumps({"settings": {"command": "robustdeq evaluate"}}))
    (tmp_path / "manifest.json").write_text("{}")
    REPRODUCTION.save(tmp_path / "fig4.json")
    EXHIBITS.save(tmp_path / FILE)
    run = read_run(tmp_path)
    assert run.name == tmp_path.name
    assert run.result is not None and run.exhibits is not None and run.alignment is not None
    assert run.result.settings == {"protocol": "paper", "torch": "2", "command": "robustdeq evaluate"}
    assert [found.name for found in run.reproductions] == ["fig4"]
    assert run.alignment.rows == ("u_1", "u_2") and run.alignment.columns == ("z_1", "z_2", "z_3")
    for i, key in enumerate(("first", "second")):
        together = np.concatenate([accurate[key, batch] for batch in range(BATCHES)])
        np.testing.assert_allclose(run.alignment.values[i], 100 * together.mean(axis=0))
    save_page([run], tmp_path / "report" / "page.html")


def test_evaluation_without_attacks_on_adjoint_states_has_no_alignment(tmp_path: Path) -> None:
    write_store(tmp_path, ("clean", "PGD"), MANIFEST | {"adjoints": {}})
    assert read_run(tmp_path).alignment is None


@pytest.mark.parametrize("withstood", [None, RNG.random((3, 40)) < 0.2])
def test_folder_without_its_store_is_read_from_the_results(withstood: np.ndarray | None, tmp_path: Path) -> None:
    replace(GRID, withstood=withstood).save(tmp_path / "results.json")
    found = read_evaluation(tmp_path)
    assert found.to_dict() == json.loads((tmp_path / "results.json").read_text())
    np.testing.assert_array_equal(found.standing, replace(GRID, withstood=withstood).standing)
    found = read_run(tmp_path).result
    assert found is not None and found.columns == GRID.columns
    (tmp_path / "results.json").write_text('{"defenses": []}')
    with pytest.raises(InputError, match="holds no evaluation"):
        read_run(tmp_path)


def test_folder_that_cannot_be_reported_is_refused_in_one_sentence(tmp_path: Path) -> None:
    def refused(folder: Path, match: str) -> None:
        with pytest.raises(InputError, match=match) as error:
            read_run(folder)
        assert "\n" not in str(error.value)

    refused(tmp_path / "nowhere", "is no folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "holds no results")
    for name, keys in {"unfinished": ("clean",), "unaligned": ("clean", "PGD", "first")}.items():
        write_store(tmp_path / name, keys)
        refused(tmp_path / name, f"{name} cannot be reported yet: the evaluation is not finished")
    write_store(tmp_path / "torn", ("clean", "PGD", "first", "second"))
    (tmp_path / "torn" / "results.json").write_text("{")
    refused(tmp_path / "torn", r"results\.json is damaged")
    (tmp_path / "torn" / STORE).write_bytes(b"no database at all" * 100)
    refused(tmp_path / "torn", "damaged")
    (tmp_path / "panels").mkdir()
    (tmp_path / "panels" / "fig4.json").write_text("[]")
    refused(tmp_path / "panels", "holds no reproduction")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / FILE).write_bytes(b"")
    refused(tmp_path / "pictures", "holds no exhibits")


def test_nothing_to_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to report"):
        save_page([], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
