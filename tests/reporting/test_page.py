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
from robustdeq.reporting.page import save_page
from robustdeq.reporting.page.charts import Chart, Plot
from robustdeq.reporting.page.comparison import comparison_charts
from robustdeq.reporting.page.grid_charts import grid_chart, headline, ready_made
from robustdeq.reporting.page.panel_chart import alignment_chart, panel_chart
from robustdeq.reporting.page.pictures import shown
from robustdeq.reporting.runs import ReportedRun, read_evaluation, read_run
from robustdeq.reporting.tabulation import Cell, Emphasis, Line, Table
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
        "data": "cifar10:test, first 40 of 10000",
        "model": {"class": "MDEQ", "parameters": 12345},
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
    residuals=torch.tensor([[[0.5, 0.01], [0.25, 0.02]], [[0.6, 0.1], [0.3, float("nan")]]]),
    directions=torch.stack([torch.ones(2, 1, 8, 8), torch.tensor([[1.0] * 6 + [-1.0, 0.0]]).expand(2, 1, 8, 8)]).to(
        torch.int8
    ),
    estimates=("adjoint u_n", "SHINE"),
    cosines=torch.tensor([[[0.5, 0.7], [1.0, 1.0]], [[-0.5, 0.0], [0.2, 0.4]]]),
    attack={"class": "PGD", "eps": 0.25, "step_size": 0.0625, "steps": 10, "norm": "Linf"},
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
RESULTS = Path(__file__).parents[2] / "results"
STORED = sorted(
    {path.parent.name for path in RESULTS.glob("*/results.json")}
    | {path.name for path in RESULTS.glob("reproduction-*")}
)


class Reader(HTMLParser):
    """The elements of a page with their attributes, what it shows as text, and its tables as rows of cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.within = ""
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
                self.within = "cell"
            case "script" | "style":
                self.scripts += [""] * (tag == "script")
                self.within = tag

    @override
    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "script", "style"):
            self.within = ""

    @override
    def handle_data(self, data: str) -> None:
        match self.within:
            case "cell":
                self.tables[-1][-1][-1] += data
            case "script":
                self.scripts[-1] += data
        if self.within not in ("script", "style"):
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
    gradients = (
        "Phantom (steps 9, damping 0.5)",
        "ThroughSolver (defense EarlyState (n 2), checkpoint no)",
        "Square",
    )
    for j, (name, kind) in enumerate(
        [("", "the paper's"), ("", "beyond the paper"), (" ↓", "beyond the paper, on survivors")]
    ):
        counted = [cell(int(GRID.per_sample[i, j].sum()), 40) for i in range(3)]
        assert rows[GRID.columns[j] + name] == [*counted, kind, gradients[j]]
    standing = (GRID.clean & GRID.per_sample.all(axis=1)).sum(axis=1)
    assert rows["worst case per image, all attacks"][:3] == [cell(int(n), 40) for n in standing]
    assert rows["minimum of the paper's columns"][:3] == [f"{100 * row[0].mean():.1f}" for row in GRID.per_sample]
    assert rows["images with logits that are not finite"][:3] == ["0", "2", "0"]


@given(st.lists(st.floats(0.0, 100.0), min_size=2, max_size=12), st.booleans())
def test_colours_span_what_is_there(numbers: list[float], falling: bool) -> None:
    cells = [Cell("", number=number) for number in numbers]
    chart = Chart("", "", Table("", "", (), ((Line("", tuple(cells)),),)), falling=falling)
    found = [chart.strength(cell) for cell in cells]
    assert chart.strength(Cell("n/a")) is None
    if min(numbers) == max(numbers):
        assert set(found) == {0.5}
        return
    ends = (1.0, 0.0) if falling else (0.0, 1.0)
    assert (found[int(np.argmin(numbers))], found[int(np.argmax(numbers))]) == ends
    expected = np.interp(numbers, [min(numbers), max(numbers)], ends)
    np.testing.assert_allclose(np.array(found, float), expected, atol=1e-3)


def test_colours_of_numbers_that_span_magnitudes_follow_their_logarithms() -> None:
    cells = [Cell("", number=number) for number in (0.0, 0.001, 0.1, 10.0)]
    chart = Chart("", "", Table("", "", (), ((Line("", tuple(cells)),),)), logarithmic=True)
    assert [chart.strength(cell) for cell in cells] == [None, 0.0, 0.5, 1.0]


def test_worst_case_has_the_strongest_colour_of_its_defense_a_frame_and_a_sentence(page: Reader) -> None:
    chart = grid_chart(GRID)
    rows = {row.name: row for row in chart.table.rows}
    worst = rows["worst case per image, all attacks"]
    assert worst.summary and all(cell.emphasis is Emphasis.WORST for cell in worst.cells)
    for i, cell in enumerate(worst.cells):
        others = [strength for row in chart.table.rows if (strength := chart.strength(row.cells[i])) is not None]
        assert chart.strength(cell) == max(others)
    assert all(chart.strength(cell) is None for cell in rows["clean"].cells)
    assert f"keeps {worst.cells[0].value} %" in chart.finding
    assert len([a for a in page.attributes("td") if a.get("class") == "worst"]) == 3 + 1


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
    model = torch.nn.Flatten() if name == "network" else deq
    rows = [Row(id, model, defense) for id, defense in protocol.defenses(2).items()]
    columns = [column for column in protocol.columns(model, rows, {}) if column.role.shown]
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
    drawn = [attributes for attributes in page.attributes("div") if attributes.get("class") == "chart"]
    coloured = [attributes for attributes in page.attributes("table") if attributes.get("class")]
    panels = 2 * len(PANELS)
    assert len(drawn) == 2 + panels - 2 == len(page.attributes("svg"))
    assert len(coloured) == 2 + 2 + 2 + 1
    assert all(chart["role"] == "img" and len(chart["aria-label"].split()) > 4 for chart in drawn)
    steps = sum(len(exhibit.steps) for exhibit in shown(EXHIBITS))
    assert len(page.tables) == len(drawn) + len(coloured) + len(GRID.checks) + steps


def test_matrix_stands_on_the_page_once(page: Reader) -> None:
    assert sum(rows[0][0] == "attack" for rows in page.tables) == len([DEQ, NETWORK])


def test_identifiers_are_unique_and_headings_leave_no_level_out(tmp_path: Path) -> None:
    page = read(tmp_path, DEQ, DEQ, replace(NETWORK, name="strict"))
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    assert [a["value"] for a in page.attributes("input") if a["type"] == "radio"] == ["strict", "strict-2", "strict-3"]
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
    assert len(found.scripts) == 1
    assert len(found.attributes("b")) == 2 * len(EXHIBITS.images)  # what the page itself stresses
    assert found.text.count(EVIL) > 5


def test_network_and_reproductions_alone_have_what_there_is(page: Reader, tmp_path: Path) -> None:
    said = "".join(page.text)
    assert "this network has no solver" in said
    assert "PGD alone" in page.text
    alone = read(tmp_path, PANELS_ONLY)
    assert "Side by side" not in alone.text
    assert not alone.attributes("fieldset")
    assert len(alone.tables) == len(PANELS)


def test_checks_speak_in_words(page: Reader, tmp_path: Path) -> None:
    said = "".join(page.text)
    assert re.search(r"Passed\s*zero gradients\s*No image has a zero gradient\.", said)
    assert re.search(r"Failed\s*more steps do not help\s*They do worse\.", said)
    assert [["defense", "one run", "p"], ["final", "25.0 %", "0.012"]] in page.tables
    none = read(tmp_path, replace(DEQ, result=replace(GRID, checks=(), settings={"protocol": "paper"})))
    assert "robustdeq evaluate WEIGHTS --protocol worst-case" in none.text


@pytest.mark.parametrize(
    ("verdicts", "said", "opened"),
    [
        ([CheckVerdict.PASSED] * 3, "3 of 3 passed", False),
        ([CheckVerdict.PASSED, CheckVerdict.FAILED], "1 of 2 passed", True),
        ([CheckVerdict.PASSED, CheckVerdict.TOO_FEW], "1 of 2 passed", True),
    ],
)
def test_checks_are_folded_unless_one_did_not_pass(
    verdicts: list[CheckVerdict], said: str, opened: bool, tmp_path: Path
) -> None:
    checks = tuple(replace(GRID.checks[0], verdict=verdict) for verdict in verdicts)
    page = read(tmp_path, ReportedRun("run", replace(GRID, checks=checks), None, None, ()))
    assert said in page.text
    assert any("open" in attributes for attributes in page.attributes("details")) == opened


def test_heading_names_model_images_and_threat_model(page: Reader) -> None:
    assert (
        "<model>, MDEQ, 12,345 parameters; cifar10:test, first 40 of 10000; ε = 8/255 (L∞), protocol strict"
    ) in page.text


@pytest.mark.slow
@pytest.mark.parametrize("name", STORED)
def test_stored_results_are_shown_in_words_in_less_than_two_megabytes(name: str, tmp_path: Path) -> None:
    assert_in_words(read(tmp_path, read_run(RESULTS / name)))
    assert (tmp_path / "page.html").stat().st_size < 2_000_000


def test_stored_results_are_shown_in_words(tmp_path: Path) -> None:
    runs = [read_run(RESULTS / name) for name in STORED if (RESULTS / name / "results.json").exists()]
    assert_in_words(read(tmp_path, *runs[:2]))


def assert_in_words(page: Reader) -> None:
    """Nothing that is shown is Markdown's, or how Python writes a value, or about a pointer that a phone lacks."""
    for text in page.text:
        odd = r"`|\bTrue\b|\bFalse\b|\bNone\b(?! of \d)|\w\(\w+=|\{'|<\w+\.\w+:|pointer|hover"
        assert not re.search(odd, text), text


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
    charts = {panel.drawing: panel_chart(panel) for panel in PANELS}
    heat = charts.pop(Drawing.HEATMAP)
    assert heat.plot is None and heat.ends == (12.5, 70.0)
    for drawing, chart in charts.items():
        assert chart.plot is not None
        names = {Drawing.CURVES: ["u₁", "u₂"], Drawing.BARS: ["z₁", "z₂", "z₃"], Drawing.SCATTER: []}[drawing]
        assert [name for name, *_ in chart.plot.key] == names
        assert "The paper's numbers are the open symbols." in chart.note


@settings(max_examples=10, deadline=None)
@given(st.text("<>&\"'$\\{}#;%_^/ ab", min_size=1, max_size=30))
def test_names_in_a_drawing_are_text(name: str) -> None:
    panel = Panel("t", "", (name, "b"), ("x", "y"), np.eye(2) + 1, drawing=Drawing.BARS)
    svg = Reader(Plot.of(panel).svg(1))
    assert {tag for tag, _ in svg.elements} <= {"svg", "g", "path", "text", "tspan", "use", "defs", "clippath", "rect"}


@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning", "ignore:.*:UserWarning")
@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(allow_infinity=False), min_size=4, max_size=4),
    st.sampled_from(Drawing),
    st.booleans(),
)
def test_any_numbers_make_a_chart(numbers: list[float], drawing: Drawing, logarithmic: bool) -> None:
    values = np.array(numbers).reshape(2, 2)
    panel = Panel("t", "%", ("a", "b"), ("x", "y"), values, drawing=drawing, logarithmic=logarithmic)
    chart = panel_chart(panel)
    assert [len(row.cells) for row in chart.table.rows] == [2, 2]
    for cell in (cell for row in chart.table.rows for cell in row.cells):
        assert (strength := chart.strength(cell)) is None or 0 <= strength <= 1


@pytest.mark.parametrize("drawing", Drawing)
@pytest.mark.parametrize("number", [np.nan, 0.0])
def test_numbers_without_logarithm_make_a_chart(drawing: Drawing, number: float) -> None:
    panel = Panel("t", "", ("a", "b"), ("x", "y"), np.full((2, 2), number), drawing=drawing, logarithmic=True)
    assert [cell.text for row in panel_chart(panel).table.rows for cell in row.cells] == 4 * [
        "0" if number == 0 else "–"
    ]


def test_comparison_has_the_papers_table_4_and_every_run_of_its_kind() -> None:
    assert DEQ.result is not None
    other = replace(DEQ.result, settings=DEQ.result.settings | {"protocol": "autoattack"})
    (chart,) = comparison_charts([("a", DEQ.result), ("b", other)])
    rows = {row.name.replace("\u00a0", " "): [cell.text for cell in row.cells[1:]] for row in chart.table.rows}
    for name, key in {
        "ResNet-18 (Table 4)": "resnet18",
        "WRN-34-10 (Table 4)": "wrn34-10",
        "DEQ-Large, unrolled, ensemble (Tables 2–4)": "large",
        "DEQ-XL, unrolled, ensemble (Tables 3 and 4)": "xl",
    }.items():
        assert rows[f"paper: {name}"] == [*(f"{value:.1f}" for value in published.COMPARISON[key]), "–"]
    clean, weakest, worst = (
        cell(int(row.sum()), 40)
        for row in (GRID.clean[0], GRID.per_sample[0, 0], GRID.clean[0] & GRID.per_sample[0].all(axis=0))
    )
    assert rows["a, final"] == [clean, weakest, "–", worst]
    assert rows["b, final"] == [clean, "–", weakest, worst]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["cifar10:test, first 40 of 10000", "digits of scikit-learn, 40 of 1797", "o/CIFAR-10", "o/cifar100"]
            ),
            st.sampled_from([8 / 255, 0.25]),
            st.sampled_from(["Linf", "L2"]),
        ),
        max_size=6,
    )
)
def test_no_chart_puts_runs_on_different_data_or_within_different_bounds_side_by_side(
    kinds: list[tuple[str, float, str]],
) -> None:
    found = [
        (str(i), replace(GRID, settings={"data": data, "attack": {"eps": eps, "norm": norm}}))
        for i, (data, eps, norm) in enumerate(kinds)
    ]
    shown_runs = set()
    for chart in comparison_charts(found):
        names = [row.name for row in chart.table.rows]
        ours = [int(name.partition(",")[0]) for name in names if not name.startswith("paper: ")]
        (kind,) = {(kinds[i][0].partition(",")[0], *kinds[i][1:]) for i in ours}
        papers = kind[0] in ("cifar10:test", "o/CIFAR-10") and kind[1:] == (8 / 255, "Linf")
        assert any(name.startswith("paper: ") for name in names) == papers
        assert len(names) > 1 and not shown_runs & {*ours}
        shown_runs |= {*ours}


def pixels(address: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition("base64,")[2]))))


def test_pictures_are_the_images_and_their_difference() -> None:
    first = shown(EXHIBITS)[0]
    ramp = np.linspace(-0.25, 0.25, 64).reshape(8, 8)
    np.testing.assert_allclose(pixels(first.clean), 127.5, atol=0.6)
    np.testing.assert_allclose(pixels(first.adversary), 255 * (0.5 + ramp), atol=0.6)
    np.testing.assert_allclose(pixels(first.perturbation), 255 * (0.5 + 2 * ramp), atol=0.6)
    assert (first.true, first.seen, first.fooled, first.stands) == ("zero", "zero (90 %)", "two (60 %)", False)


def test_steps_of_an_image_are_what_every_state_makes_of_it() -> None:
    first, second = shown(EXHIBITS)
    assert first.classes == ("zero", "one", "two") and second.classes == ("one",)
    early, final = first.steps
    assert (early.name, final.name) == ("z₁", "final")
    np.testing.assert_allclose(early.shares, [[0.2, 0.2], [0.7, 0.7], [0.1, 0.1]], rtol=1e-6)
    np.testing.assert_allclose(final.shares, [[0.9, 0.3], [0.1, 0.1], [0.0, 0.6]], rtol=1e-6)
    assert (early.residuals, final.residuals) == (("0.5", "0.6"), ("0.01", "0.1"))
    assert second.steps[1].residuals == ("0.02", "–")
    assert (early.agreement, final.agreement) == ("75.0", "100.0")
    np.testing.assert_array_equal(pixels(early.direction), 255)
    np.testing.assert_array_equal(pixels(final.direction), [[255] * 6 + [0, 128]] * 8)


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        ({"eps": 8 / 255, "norm": "Linf"}, "ε = 8/255 (L∞)"),
        ({"eps": 0.25, "norm": "Linf"}, "ε = 0.25 (L∞)"),
        ({"eps": 1.0, "norm": "Linf", "bounds": [0.0, 1.0]}, "ε = 255/255 (L∞)"),
        ({"eps": 1.0, "norm": "Linf", "bounds": [-10.0, 10.0]}, "ε = 1 (L∞)"),
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
            "batches": BATCHES,
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
    for other in ("manifest.json", "certified.json", "x-final.robustbench.json"):
        (tmp_path / other).write_text("{}")
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


def test_alignment_compares_every_state_with_the_adjoint_state_after_it(tmp_path: Path) -> None:
    adjoints = {"adjoints": {"u_10": "first", "u_2": "second"}}
    write_store(tmp_path, ("clean", "PGD", "first", "second"), MANIFEST | adjoints)
    alignment = read_run(tmp_path).alignment
    assert alignment is not None and alignment.rows == ("u_2", "u_10")
    values = np.full((4, 10), 50.0)
    values[0, 0], values[2, 8], values[1, 9] = 40, 60, 30  # u_2 on z_1, u_10 on z_9, u_5 on z_10
    rows, columns = ("u_2", "u_5", "u_10", "u_11"), tuple(f"z_{n}" for n in range(1, 11))
    chart = alignment_chart(Panel("alignment", "%", rows, columns, values))
    assert chart.finding.startswith("For 2 of 4 states zₙ no attack hurts more than that on uₙ₊₁")


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
