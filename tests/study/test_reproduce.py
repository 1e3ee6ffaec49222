"""Every table and figure, end to end: the rows and axes of the paper, with finite numbers from that very run."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import robustdeq as rd
from robustdeq import cli
from robustdeq.attacks import PGD, AutoAttack
from robustdeq.base.errors import InputError
from robustdeq.data import Images, load
from robustdeq.evaluation import Estimators, Store
from robustdeq.evaluation.job import Job
from robustdeq.gradients import Exact, Gradient
from robustdeq.recipes import recipe_summary
from robustdeq.study import (
    EXPERIMENTS,
    SCALES,
    Budget,
    Effort,
    Panel,
    Reproduction,
    Scale,
    Study,
    experiment_named,
    published,
    scale_named,
)
from robustdeq.study.beyond.attack_order import alone, ours
from robustdeq.study.claims import STATEMENTS
from robustdeq.study.configurations import (
    ALIGNED,
    CONFIGURATIONS,
    EXACT_8_7,
    EXACT_18_20,
    EXACT_50_50,
    NETWORKS,
    RESNET,
    UNROLLED,
    Configuration,
)
from robustdeq.study.grids import grid_panels
from robustdeq.study.paper.accumulation import states_under_ready_made
from robustdeq.study.run import reproduce
from robustdeq.study.times import collect, measured_times
from robustdeq.training import Regularization, seconds_trained
from robustdeq.training.plan import Plan, read_plan

IMAGES = 4
STORED = Path(__file__).parents[2] / "results"
QUICK = [
    *("--scale", "nano", "-n", str(IMAGES), "--batch_size", "4", "--device", "cpu"),
    *("--budget", '{"max_steps": 2, "validation_images": 8, "validations": 1}'),
    *("--effort", '{"steps": 1, "long_steps": 3, "apgd_steps": 2, "targets": 2, "queries": 3, "repetitions": 2}'),
    *("--effort.models", "6"),
    *("--strict", '{"steps": 1, "restarts": 2, "apgd_steps": 2, "targets": 2, "queries": 3, "probe_images": 4}'),
    *("--estimators", '{"steps": [1, 5], "dampings": [1.0], "states": 3}'),
]
READS = ("Final", "Intermediate", "Ensemble")
GRID = ["Clean", *(f"{f}, {r}" for f in ("Simultaneous Adjoint", "Unrolled Intermediates") for r in READS)]
DEFENSES = ["Final", "Early", "Ensemble"]
PRINTED = (["Final", "Early", "Ensemble"], [f"Simultaneous Adjoint, {r}" for r in READS])
WHITE_BOX = (["Weakest column"], [*DEFENSES, "Best defense"])
STATES = [f"z_{n}" for n in range(1, 10)]
ADJOINTS = [f"u_{n}" for n in range(1, 10)]
TRAININGS = ["(8/7) Exact-Trained", "(18/20) Exact-Trained", "(50/50) Exact-Trained", "(8/7) Unrolling-Trained"]
SEEDED = [f"{t}, seed {s}" for t in (TRAININGS[3], *TRAININGS[:2], "(8) Solver-Aligned") for s in (0, 1)]
CLIMBS = ["ready-made", "paper's best", "through the solver"]
COMPARED = [f"{a} less {b}" for a, b in combinations((TRAININGS[3], *TRAININGS[:2], "(8) Solver-Aligned"), 2)]
CLIMBED = [f"{t}, {g}" for t in SEEDED for g in CLIMBS]
LOSSES = ["cross-entropy", "margin", "targeted DLR"]
UNROLLED_STEPS = ["k = 1", "k = 5"]
PROTOCOLS = ["Clean", "Ready-made PGD-1", "Paper's protocol", "PGD-1 through the solver", "Strict protocol"]
ESTIMATES = ["adjoint u_n", "adjoint u_{n+1}", *(f"unrolled, k = {k}, λ = 1" for k in (1, 5))]
ESTIMATES += ["ready-made, unrolled", "ready-made, exact", "SHINE", "Jacobian-free"]

VARIED = [f"{base}, {kind}" for kind in ("phantom", "exact", "through") for base in ("conv-digits", "nano")]
SIGNS = ["relative residual of z*", "spectral radius of ∂f/∂z at z*"]
SIGNS += ["cosine of the ready-made gradient and that through the solver"]
SHARED = ["SHINE", "SHINE, strongest for each state", "Adjoint ensemble", "Adjoint u_9"]
SHARED += ["Adjoint, strongest for each state"]
PENALISED = ["as at this scale", "weight 0.4", "weight 2", "weight 10"]

ORDERED = [f"{t}, seed {s}" for t in (TRAININGS[3], TRAININGS[0], "(8) Solver-Aligned") for s in (0, 1)]
PRICED = ["strict, f per image", "worst case, f per image", "ratio", "outcomes that differ"]
SINGLE, AUTOATTACK = list(alone(PGD(), Effort())), ["apgd-ce", "apgd-t", "fab-t", "square"]

LAYOUT: dict[str, list[tuple[list[str], list[str]]]] = {
    "table1": [(["Exact", "Unrolling"], ["Clean", "PGD-1", "PGD-3", "SQUARE"])],
    "table2": [(DEFENSES, GRID), WHITE_BOX, PRINTED] * 2,
    "table3": [(DEFENSES, GRID), WHITE_BOX, PRINTED] * 4,
    "table4": [
        (["ResNet-18", "DEQ-nano", "WRN-34-10", "DEQ-tiny"], ["Clean", "PGD-1", "AA"]),
        (["ResNet-18", "DEQ-nano", "WRN-34-10", "DEQ-tiny"], ["#Params"]),
    ],
    "table5": [(["Clean Acc.", "Robust Acc."], STATES[:8])],
    "table6": [(DEFENSES, GRID), WHITE_BOX],
    "fig2a": [(TRAININGS, ["Final state", "Intermediate state"])],
    "fig2b": [([TRAININGS[0], TRAININGS[1], TRAININGS[3]], STATES)],
    "fig3a": [([f"{t}, {s} state" for t in (TRAININGS[3], TRAININGS[0]) for s in ("early", "final")], ADJOINTS)] * 2,
    "fig3b": [(UNROLLED_STEPS, STATES[:8])],
    "fig3c": [(UNROLLED_STEPS, STATES[:8])],
    "fig4": [(ADJOINTS, STATES)] * 2,
    "adjoint-convergence": [
        (
            [f"β = {b}, {m}" for m in ("B_nᵀ", "B_n as printed") for b in ("1", "0.5", "0.25")],
            [f"u_{n}" for n in range(1, 31)],
        )
    ],
    "accumulation": [
        (["Clean", "Ready-made PGD-1"], STATES),
        (["Clean", "Ready-made PGD-1"], [f"z_{n}" for n in range(1, 20)]),
        (["Clean", "Ready-made PGD-1"], [f"z_{n}" for n in range(1, 52)]),
        (["Clean", "Ready-made PGD-1"], STATES),
    ],
    "shine": [(SHARED, STATES), (STATES[:8], STATES)],
    "unroll-ablation": [(UNROLLED_STEPS, STATES[:8])] * 2,
    "jacobian-sweep": [(PENALISED, STATES), (PENALISED, ["Clean", "Exact", "Unrolling", "Through the solver"])],
    "training-speed": [([TRAININGS[3], *TRAININGS[:3], "(8) Solver-Aligned"], ["batch of 32"])] * 2,
    "lipschitz": [([TRAININGS[3], *TRAININGS[:2]], ["2"])] * 2,
    "memory": [(DEFENSES, ["N = 8", "N = 16", "N = 32"])],
    "attack-time": [
        ([*(name.capitalize() for name in GRID[1:]), *(f"Through the solver, {d.lower()}" for d in DEFENSES)], [unit])
        for unit in ("evaluations", "time")
    ],
    "claims": [
        ([statement.title.replace("PGD-10", "PGD-1") for statement in STATEMENTS if statement.unit == unit], ["Effect"])
        for unit in dict.fromkeys(statement.unit for statement in STATEMENTS)
    ],
    "true-gradient": [(ESTIMATES, STATES)] * 4,
    "strict-vs-paper": [(DEFENSES, PROTOCOLS)],
    "overestimate": [
        (SEEDED, ["Clean", "Ready-made", "Paper's best", "Through the solver", "Worst case"]),
        (SEEDED, ["Ready-made", "Paper's best", "Through the solver"]),
        *[(COMPARED, ["Clean", "Ready-made", "Paper's best", "Through the solver", "Worst case"])] * 2,
    ],
    "gradient-or-loss": [
        (CLIMBED, LOSSES),
        *[([f"{t}, beyond {g}" for t in SEEDED for g in CLIMBS[:2]], LOSSES)] * 2,
        *[([f"{t}, {loss}" for t in SEEDED for loss in LOSSES[1:]], CLIMBS)] * 2,
        *[(CLIMBED, LOSSES)] * 2,
    ],
    "attack-order": [
        (ORDERED, SINGLE),
        ([*ORDERED, "mean"], SINGLE),
        *[(ORDERED, list(ours(PGD(), Effort())))] * 2,
        *[(ORDERED, AUTOATTACK)] * 4,
        (ORDERED, ["Ours over AutoAttack's"]),
    ],
    "price": [(ORDERED, PRICED), (ORDERED, ["strict", "worst case"])],
    "epsilon-curve": [
        (
            [f"{d}, {a}" for d in DEFENSES for a in ("ready-made", "through the solver")],
            ["0", "0.0625", "0.125", "0.25", "0.375", "0.5", "1"],
        )
    ],
    "steps-curve": [([f"{d}, {r}" for d in DEFENSES for r in ("1 run", "2 runs")], ["1", "2", "5"])],
    "alignment": [
        (
            [f"{t}, seed {s}" for s in (0, 1) for t in (TRAININGS[3], "(8) Solver-Aligned")],
            ["Clean", "Ready-made", "Through the solver"],
        ),
        (["seed 0", "seed 1"], ["Clean", "Ready-made", "Through the solver"]),
        ([f"{t}, seed {s}" for s in (0, 1) for t in (TRAININGS[3], "(8) Solver-Aligned")], ["Residual"]),
    ],
    "when": [
        *((VARIED, [sign, "overestimate, points"]) for sign in SIGNS),
        (VARIED, ["Clean", "Ready-made", "Paper's best", "Through the solver"]),
    ],
}


FEW = ("table1", "fig4")
pytestmark = pytest.mark.xdist_group("reproduce")


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table and a figure, reproduced at the scale nano on a few digits."""
    path = tmp_path_factory.mktemp("reproduced")
    for name in FEW:
        cli.main(["reproduce", name, *QUICK, "--output", str(path)])
    return path


@pytest.fixture(scope="module")
def everything(few: Path) -> Path:
    """All experiments, reproduced there too; what claims compare in time is timed twice."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("robustdeq.study.claims.cost._ROUNDS", 2)
        cli.main(["reproduce", "all", *QUICK, "--output", str(few)])
    return few


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> Path:
    """Where the experiment of the test is: among the few, or, in the slow tier, among all."""
    slow = request.node.get_closest_marker("slow") is not None
    return request.getfixturevalue("everything" if slow else "few")


def experiments(names: Iterable[str]) -> pytest.MarkDecorator:
    tiers = [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in names]
    return pytest.mark.parametrize("name", tiers)


def found(folder: Path, name: str) -> Reproduction:
    return Reproduction.read(folder / f"{name}.json")


def test_every_experiment_is_specified_here() -> None:
    assert list(LAYOUT) == list(EXPERIMENTS)


@experiments(LAYOUT)
def test_it_has_the_rows_and_axes_of_the_paper_and_finite_numbers(folder: Path, name: str) -> None:
    reproduction = found(folder, name)
    assert len(reproduction.panels) == len(LAYOUT[name])
    for panel, (rows, columns) in zip(reproduction.panels, LAYOUT[name], strict=True):
        assert [_without_choice(row) for row in panel.rows] == [_without_choice(row) for row in rows]
        assert list(panel.columns) == columns
        assert panel.unit == "ratio" or np.isfinite(panel.values).all()
        if panel.low is not None and panel.high is not None:
            assert not (panel.low > panel.values + 1e-9).any()
            assert not (panel.values > panel.high + 1e-9).any()
        if panel.unit == "%":
            shares = panel.values * IMAGES / 100
            assert name == "true-gradient" or np.allclose(shares, shares.round())
    for suffix in ("png", "tex"):
        assert (folder / f"{name}.{suffix}").stat().st_size > 300


def _without_choice(row: str) -> str:
    """The row without what is chosen on images: the number of the state in it, or what the paper's best climbs."""
    row = row.partition(": ")[0]
    head, mark, tail = row.rpartition(" z_")
    return head if mark and tail.isdigit() and head.endswith("state") else row


@experiments(LAYOUT)
def test_it_says_where_it_comes_from(folder: Path, name: str) -> None:
    provenance = found(folder, name).provenance
    assert provenance["images"] == IMAGES
    assert provenance["data"] == f"digits of scikit-learn, 400 of 1797, stratified with seed 0, first {IMAGES} of 400"
    assert provenance["device"] == "cpu"
    assert provenance["seconds_from_nothing"] >= provenance["seconds"] > 0
    needed = {way.name for way in EXPERIMENTS[name].configurations}
    assert {model.split()[1] for model in provenance["models"]} == needed


PAPERS = {
    "table1": [published.EXACT_SMALL],
    "table2": [published.UNROLLED, published.EXACT_LARGE],
    "table3": [published.UNROLLED, published.UNROLLED_AUTOATTACK, published.XL, published.XL_AUTOATTACK],
    "table5": [published.STATES],
    "table6": [published.STANDARD],
}


@experiments(PAPERS)
def test_the_papers_numbers_stand_beside_ours(folder: Path, name: str) -> None:
    panels = [panel for panel in found(folder, name).panels if list(panel.columns) != WHITE_BOX[1]]
    papers = [paper for paper in PAPERS[name] for paper in ([paper, paper[:, 1:4]] if name in PRINTED_TOO else [paper])]
    for panel, paper in zip(panels, papers, strict=True):
        assert panel.paper is not None
        np.testing.assert_array_equal(panel.paper, paper)


PRINTED_TOO = ("table2", "table3")
WHITE_BOXES = {
    "table2": [[42.67, 29.38, 47.12, 47.12], [36.70, 12.44, 39.18, 39.18]],
    "table3": [
        *([42.67, 29.38, 47.12, 47.12], [37.27, 25.41, 48.37, 48.37]),
        *([48.58, 48.88, 51.70, 51.70], [43.97, 56.58, 54.09, 56.58]),
    ],
    "table6": [[0.00, 1.31, 0.00, 1.31]],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WHITE_BOXES)
def test_under_each_white_box_table_stand_the_weakest_columns_and_the_best_defense(folder: Path, name: str) -> None:
    panels, each = found(folder, name).panels, 2 + (name in PRINTED_TOO)
    grids, lines = panels[::each], panels[1::each]
    for grid, line, papers in zip(grids, lines, WHITE_BOXES[name], strict=True):
        weakest = grid.values[:, 1:].min(axis=1)
        np.testing.assert_allclose(line.values, [[*weakest, weakest.max()]])
        np.testing.assert_allclose(line.reported, [papers])


def test_weakest_columns_stand_beside_the_papers() -> None:
    outcomes = np.arange(3 * 7 * 5).reshape(3, 7, 5) % 4 == 0
    grid, line = grid_panels("t", outcomes, published.XL)
    weakest = grid.values[:, 1:].min(axis=1)
    np.testing.assert_allclose(line.values, [[*weakest, weakest.max()]])
    np.testing.assert_allclose(line.reported, [WHITE_BOXES["table3"][2]])


@pytest.mark.slow
def test_the_papers_numbers_stand_beside_models_of_other_sizes(folder: Path) -> None:
    (comparison, _) = found(folder, "table4").panels
    assert comparison.paper is not None
    assert comparison.paper[1].tolist() == [79.67, published.UNROLLED[2].min(), published.UNROLLED_AUTOATTACK[2].min()]
    assert comparison.paper[3].tolist() == [81.17, published.XL[2].min(), published.XL_AUTOATTACK[2].min()]


@pytest.mark.slow
def test_experiments_agree_where_they_measure_the_same(folder: Path) -> None:
    ready_made, accumulated = found(folder, "fig2a").panels[0], found(folder, "accumulation").panels
    for i, panel in enumerate(accumulated):
        attacked = panel.values[1]
        assert ready_made.values[i].tolist() == [attacked[-1], attacked[:-1].max()]
    grid, adjoints = found(folder, "table2").panels[0], found(folder, "fig4").panels[0]
    assert grid.values[0, 1] == adjoints.values[-1, -1]
    assert grid.values[0, 0] == accumulated[3].values[0, -1]
    printed, adjoints = found(folder, "table2").panels[2], found(folder, "fig4").panels[1]
    assert printed.values[0, 0] == adjoints.values[-1, -1]
    assert adjoints.values[:, -1].tolist() == found(folder, "fig3a").panels[1].values[1].tolist()
    strict, steps = found(folder, "strict-vs-paper").panels[0], found(folder, "steps-curve").panels[0]
    assert (strict.values[:, 4] <= strict.values[:, :4].min(axis=1)).all()
    assert strict.values[:, 3].tolist() == steps.values[::2, 0].tolist()
    seen, overrated, *compared = (panel.values for panel in found(folder, "overestimate").panels)
    assert (seen[:, -1:] <= seen[:, :-1]).all()
    assert seen[0, 0] == strict.values[0, 0]
    assert seen[0, 3] == strict.values[0, 3]
    means = seen.reshape(-1, 2, seen.shape[1]).mean(axis=1)
    np.testing.assert_allclose(compared[0], [one - other for one, other in combinations(means, 2)], atol=1e-9)
    np.testing.assert_allclose(overrated, seen[:, 1:-1] - seen[:, -1:])
    priced = found(folder, "price").panels[0].values
    assert (priced[:, 1] < priced[:, 0]).all()
    assert not priced[:, 3].any()
    curve = found(folder, "epsilon-curve").panels[0]
    assert strict.values[:, 3].tolist() == curve.values[1::2, 3].tolist()
    assert strict.values[0, 1] == curve.values[0, 3] == grid.values[0, 4]


@pytest.mark.slow
def test_gradients_agree_with_themselves_and_early_exit_needs_least_memory(folder: Path) -> None:
    for panel in found(folder, "true-gradient").panels:
        assert (np.abs(panel.values) <= (100 if panel.unit == "%" else 1 + 1e-6)).all()
    memory = found(folder, "memory").panels[0].values
    assert (memory[1] == memory[1, 0]).all()
    assert (memory[1] < memory[0]).all()
    assert (np.diff(memory[0]) > 0).all()
    counted = found(folder, "attack-time").panels[0].values[:, 0]
    assert counted[1] > counted[0]


@experiments(["fig4", "table2"])
def test_the_same_command_measures_nothing_again(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = found(folder, name)

    def measured_again(*_: object) -> None:
        raise AssertionError("an attempt was made again")

    monkeypatch.setattr("robustdeq.evaluation.job.adversaries_of", measured_again)
    cli.main(["reproduce", name, *QUICK, "--output", str(folder)])
    after = found(folder, name)
    for old, new in zip(before.panels, after.panels, strict=True):
        np.testing.assert_array_equal(old.values, new.values)
    kept = after.provenance["seconds_from_nothing"] - after.provenance["seconds"]
    spent = []
    for path in folder.glob("measured/*/results.sqlite"):
        with Store.read(path) as store:
            spent.append(sum(run.seconds for *_, run in store))
    trained = [seconds_trained(path) for path in folder.glob("trained/nano-*")]
    assert kept > 0.9 * (min(spent) + min(trained))
    assert kept < sum(spent) + sum(trained)


def test_other_settings_do_not_replace_results(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (folder / "fig4.json").read_text()
    with pytest.raises(SystemExit) as stopped:
        cli.main(["reproduce", "fig4", *QUICK, "-n", "2", "--output", str(folder)])
    assert stopped.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "fig4.json was made with other settings (" in said
    assert said.endswith("choose another --output, or pass --overwrite.")
    assert (folder / "fig4.json").read_text() == before


def study(tmp_path: Path, **settings: object) -> Study:
    splits = load("digits")
    quick = {"effort": Effort(1, 2, 1, 2, 2, 2), "estimators": Estimators(steps=(1,), dampings=(1.0,))}
    everything = {"budget": Budget(1, 8, 1), **quick, **settings}
    return Study(scale_named("nano"), splits, splits.require("test").head(3), tmp_path, **everything)  # pyright: ignore


def test_given_weights_are_used_and_nothing_is_trained(tmp_path: Path) -> None:
    torch.manual_seed(1)
    deq = rd.models.mdeq(replace(rd.models.PRESETS["nano"], max_steps=3), in_channels=1)
    rd.save(deq, tmp_path / "own.safetensors", early=2)
    own = str(tmp_path / "own.safetensors")
    reproduction = reproduce(experiment_named("fig4"), study(tmp_path, weights={"unrolled": own}))
    assert reproduction.panels[0].columns == ("z_1", "z_2", "z_3", "z_4")
    assert reproduction.provenance["models"] == {"nano unrolled": rd.models.fingerprint(deq)}
    assert not (tmp_path / "trained").exists()
    seeded = study(tmp_path, weights={"tiny-unrolled-1": own, "unrolled": "missing"})
    assert seeded.trained(UNROLLED, "tiny", seed=1).early == 2


def test_early_state_of_given_weights_is_chosen_where_they_do_not_say(tmp_path: Path) -> None:
    rd.save(rd.models.mdeq("nano", in_channels=1), tmp_path / "own.safetensors")
    trained = study(tmp_path, weights={"unrolled": str(tmp_path / "own.safetensors")}).trained(UNROLLED)
    assert trained.early in range(1, 7)


BACKWARD = {"exact-8-7": 7, "exact-18-20": 20, "exact-50-50": 50, "standard": 7}


@pytest.mark.parametrize("name", BACKWARD)
def test_given_weights_are_attacked_by_the_gradient_they_were_trained_with(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their early state, the states of Figs. 2a and C and of Table 5, and the exact rows of Table 1."""
    own, seen = Exact(max_steps=BACKWARD[name], tol=1e-3), []
    differentiate = Gradient.input_gradient

    def watched(self: Gradient, *arguments: Any) -> torch.Tensor:
        seen.append(self)
        return differentiate(self, *arguments)

    monkeypatch.setattr(Gradient, "input_gradient", watched)
    rd.save(rd.models.mdeq("nano", in_channels=1), tmp_path / "own.safetensors")
    at_work = study(tmp_path, weights={name: str(tmp_path / "own.safetensors")})
    (way,) = (way for way in CONFIGURATIONS if way.name == name)
    trained = at_work.trained(way)
    assert set(seen) == {own}
    states_under_ready_made(at_work, trained, "states")
    assert set(seen) == {own}
    if way is EXACT_8_7:
        reproduce(experiment_named("table1"), at_work)
        assert set(seen) == {own, at_work.estimators.final}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: rd.models.mdeq("nano", in_channels=3), "was made for images of shape (3, 8, 8) in 10 classes, and "),
        (lambda: rd.models.mdeq("nano", num_classes=4, in_channels=1), "shape (1, 8, 8) in 4 classes, and "),
    ],
)
def test_weights_that_do_not_fit_end_in_one_sentence(model, message: str, tmp_path: Path) -> None:
    rd.save(model(), tmp_path / "own.safetensors", early=1)
    with pytest.raises(InputError) as refused:
        study(tmp_path, weights={"unrolled": str(tmp_path / "own.safetensors")}).trained(UNROLLED)
    assert message in str(refused.value)
    assert str(refused.value).endswith("give other weights or other data.")


def test_network_given_for_a_deq_ends_in_one_sentence(tmp_path: Path) -> None:
    network = rd.models.ResNet(rd.models.ResNetConfig((1,), 4), 10, 1)
    rd.save(network, tmp_path / "own.safetensors")
    with pytest.raises(InputError, match="the weights hold a ResNet; give those of an MDEQ"):
        reproduce(experiment_named("fig4"), study(tmp_path, weights={"unrolled": str(tmp_path / "own.safetensors")}))


def test_interrupted_measurement_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = study(tmp_path)
    original = Job.run

    def cut(self: Job, store, *rest: object, **named: object) -> None:
        commit, kept = store.commit, []

        def limited(attack: str, *run: object) -> None:
            if len(kept) == 3:
                raise KeyboardInterrupt
            kept.append(attack)
            commit(attack, *run)

        monkeypatch.setattr(store, "commit", limited)
        original(self, store, *rest, **named)

    with monkeypatch.context() as patched:
        patched.setattr(Job, "run", cut)
        with pytest.raises(KeyboardInterrupt):
            reproduce(experiment_named("fig4"), own)
    resumed = reproduce(experiment_named("fig4"), own)
    whole = reproduce(experiment_named("fig4"), study(tmp_path / "anew"))
    np.testing.assert_array_equal(resumed.panels[0].values, whole.panels[0].values)


@pytest.mark.parametrize("scale", [scale for scale in SCALES.values() if scale.networks], ids=lambda scale: scale.name)
def test_networks_have_the_size_of_the_deq_they_stand_beside(scale: Scale) -> None:
    shape = (1, 1, 8, 8) if scale.data == "digits" else (1, 3, 32, 32)
    blank = Images(torch.zeros(shape, dtype=torch.uint8), torch.tensor([0]), tuple("0123456789"), "blank")

    def parameters(plan: Plan) -> int:
        return sum(p.numel() for p in plan.build(blank).parameters())

    for network, size in zip(NETWORKS, scale.sizes, strict=False):
        ratio = parameters(scale.plan(network, size)) / parameters(scale.plan(UNROLLED, size))
        assert 0.85 < ratio < 1.15


def test_full_effort_is_the_standard_autoattack() -> None:
    attack = scale_named("large").attack
    standard = AutoAttack(attack.eps, attack.norm, seed=attack.seed).components
    assert Effort().autoattack(attack).components == tuple(standard.values())


@pytest.mark.parametrize("way", CONFIGURATIONS, ids=lambda way: way.name)
@pytest.mark.parametrize("scale", ["nano", "conv-digits", "tiny", "small", "conv-small", "large"])
def test_ways_of_training_differ_in_what_they_compare_alone(way, scale: str) -> None:
    chosen = scale_named(scale)
    plan, paper = chosen.plan(way, chosen.sizes[0]), scale_named("large").plan(way, "large")
    assert type(plan.recipe.objective) is type(paper.recipe.objective)
    assert plan.gradient == paper.gradient
    assert plan.recipe.regularization == (Regularization() if "conv" in scale else paper.recipe.regularization)
    if way is not RESNET and plan.model == chosen.sizes[0]:
        assert plan.architecture == paper.architecture
    forward = {EXACT_8_7: 8, UNROLLED: 8, EXACT_50_50: 50}.get(way)
    assert forward in (None, plan.architecture.get("max_steps"))
    cut = chosen.plan(way, chosen.sizes[0], Budget(max_steps=7), seed=3).recipe.schedule
    assert (cut.max_steps, cut.seed) == (7, plan.recipe.schedule.seed + 3)


@pytest.mark.parametrize("way", [UNROLLED, EXACT_8_7, EXACT_18_20, ALIGNED], ids=lambda way: way.name)
@pytest.mark.parametrize("size", ["conv-digits", "conv-small"])
def test_packaged_recipe_is_the_training_of_its_scale(size: str, way: Configuration) -> None:
    packaged, scaled = read_plan(f"{size}-{way.name}"), scale_named(size).plan(way, size)
    images = Images(torch.zeros(1, 1, 32, 32, dtype=torch.uint8), torch.zeros(1, dtype=torch.long), ("a", "b"), "none")
    assert packaged.build(images).config == scaled.build(images).config
    assert replace(packaged, architecture={}) == replace(scaled, architecture={})


@pytest.mark.parametrize("way", CONFIGURATIONS, ids=lambda way: way.name)
def test_recipe_names_the_tables_of_the_paper_that_show_its_model(way: Configuration) -> None:
    """In its first line; a range of tables is written 2–4."""
    sources = [re.fullmatch(r"Table (\d)", e.source) for e in EXPERIMENTS.values() if way in e.configurations]
    said = "".join(re.findall(r"Tables? ([\d, –]+)", recipe_summary(way.recipe)))
    ends = [[int(end) for end in part.split("–")] for part in said.replace(" ", "").split(",") if part]
    named = [table for first, *last in ends for table in range(first, (last or [first])[0] + 1)]
    assert named == [int(source[1]) for source in sources if source]


def test_panel_is_read_as_it_was_written(tmp_path: Path) -> None:
    values = np.array([[1.0, np.nan], [2.5, -3.0]])
    panel = Panel("t", "%", ("a", "b"), ("c", "d"), values, paper=np.array([[np.nan, 4.0], [np.nan, np.nan]]))
    Reproduction("n", "Table 9", "title", (panel,), provenance={"x": 1}).save(tmp_path / "n.json")
    read = Reproduction.read(tmp_path / "n.json")
    assert json.loads((tmp_path / "n.json").read_text())["panels"][0]["values"] == [[1.0, None], [2.5, -3.0]]
    assert (read.name, read.source, read.provenance) == ("n", "Table 9", {"x": 1})
    np.testing.assert_array_equal(read.panels[0].values, values)
    np.testing.assert_array_equal(read.panels[0].reported, panel.reported)
    assert read.panels[0].low is None
    with pytest.raises(InputError, match=r"values of the panel 't' has shape \(2, 2\); make it \(1, 2\)"):
        Panel("t", "%", ("a",), ("c", "d"), values)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"panels": [{"rows": 3}]}', '{"panels": 1}', "null"])
def test_file_that_holds_something_else_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "n.json").write_text(content)
    with pytest.raises(InputError, match=r"n\.json holds no reproduction"):
        Reproduction.read(tmp_path / "n.json")
    with pytest.raises(InputError, match="cannot be read"):
        Reproduction.read(tmp_path / "missing.json")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table7"], "there is no experiment 'table7'; did you mean table"),
        (["nothing-like-it"], "there is no experiment 'nothing-like-it'; choose one of table1, table2, table3"),
        ([], "there is nothing to reproduce; name a table or figure, or pass --list to see them all."),
        (
            ["table1", "--scale", "huge"],
            "there is no scale 'huge'; choose one of nano, conv-digits, tiny, small, conv-small, large, xl.",
        ),
        (["table1", "--effort.steps", "0"], "steps is 0; give 1 or more."),
        (["table1", "--batch_size", "0"], "batch_size is 0; give 1 or more."),
        (["alignment", "--seeds", "0"], "seeds is 0; give 1 or more."),
        (["when", "--scale", "tiny"], "when is not measured at the scale tiny; give --scale conv-digits or nano."),
        (["lipschitz", "--weights", "w"], "lipschitz looks at the training itself; leave out --weights."),
        (["table1", "-n", "0"], "Cannot take the first 0 images"),
        (["table1", "--weights", "missing.safetensors"], "missing.safetensors"),
        (["table1", "--max_step", "3"], "unrecognized arguments: --max_step 3"),
    ],
)
def test_what_cannot_be_ends_in_one_sentence(
    arguments: Sequence[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["reproduce", *arguments, "--output", str(tmp_path / "out")])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert message in " ".join(said.split())
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_list_names_everything_and_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["reproduce", "--list"])
    said = capsys.readouterr().out
    for name in EXPERIMENTS:
        assert name in said
    assert "exact-50-50" in said


def test_list_says_how_long_each_took(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("robustdeq.reporting.tabulation.measured_times", lambda: collect([folder]))
    cli.main(["reproduce", "--list"])
    said = " ".join(capsys.readouterr().out.split())
    assert "measured time" in said
    assert f"{IMAGES} images" in said
    monkeypatch.setattr("robustdeq.reporting.tabulation.measured_times", dict)
    cli.main(["reproduce", "--list"])
    assert "measured time" not in capsys.readouterr().out


def test_the_times_that_are_shipped_are_those_of_the_stored_results() -> None:
    times = measured_times()
    assert times == collect(sorted(STORED.glob("reproduction-*")))
    tables = {
        e.name for e in EXPERIMENTS.values() if e.source.startswith(("Table", "Figure", "Fig", "Appendix", "Sec"))
    }
    assert tables <= set(times["nano"])
