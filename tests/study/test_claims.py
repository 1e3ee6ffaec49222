"""The claims of the paper: tests of known effects, verdicts, and the whole table from known outcomes."""

import json
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import robustdeq as rd
from robustdeq.base.errors import InputError
from robustdeq.base.statistics import weakest
from robustdeq.data import load
from robustdeq.evaluation import Estimators
from robustdeq.reporting import findings_table, markdown, reproduction_latex
from robustdeq.study import EXPERIMENTS, Effort, Finding, Reproduction, Study, Verdict, evidence, scale_named
from robustdeq.study.claims import CLAIMS, STATEMENTS, cost, estimates
from robustdeq.study.claims.decision import decide
from robustdeq.study.claims.statement import Seed, Statement, best_defense, hurts_most, mildest, points
from robustdeq.study.configurations import CONFIGURATIONS, UNROLLED
from robustdeq.study.finding import FEWEST_SEEDS, LEVEL, verdict
from robustdeq.study.grids import paper_grid
from robustdeq.study.paper.accumulation import states_under_ready_made
from robustdeq.study.paper.adjoint_convergence import distances
from robustdeq.study.paper.fig2b import residuals
from robustdeq.study.paper.fig4 import states_under_adjoints
from robustdeq.study.paper.jacobian_sweep import final_residuals
from robustdeq.study.paper.lipschitz import lipschitz_constants
from robustdeq.study.paper.table1 import ready_made
from robustdeq.study.paper.table3 import attacked_twice
from robustdeq.study.paper.table4 import network
from robustdeq.study.stopwatch import Timing
from robustdeq.study.study import Trained

TITLES = tuple(way.title for way in CONFIGURATIONS)

finite = st.floats(-1e3, 1e3)
shares = st.floats(0, 1)


@given(finite, finite, shares, st.integers(1, 9))
def test_verdict_needs_seeds_a_small_p_and_an_interval_without_zero(a: float, b: float, p: float, seeds: int) -> None:
    low, high = sorted((a, b))
    said = verdict(low, high, p, seeds)
    assert (said is Verdict.UNDECIDED) == (seeds < FEWEST_SEEDS)
    if said is Verdict.HOLDS:
        assert p < LEVEL
        assert low > 0
    if said is Verdict.REVERSED:
        assert p < LEVEL
        assert high < 0


@given(finite, finite, shares, st.integers(1, 9))
def test_the_opposite_claim_has_the_opposite_verdict(a: float, b: float, p: float, seeds: int) -> None:
    low, high = sorted((a, b))
    opposite = {Verdict.HOLDS: Verdict.REVERSED, Verdict.REVERSED: Verdict.HOLDS}
    said = verdict(low, high, p, seeds)
    assert verdict(-high, -low, p, seeds) is opposite.get(said, said)


@given(finite, finite, shares, shares, st.integers(FEWEST_SEEDS, 9))
def test_a_smaller_p_never_takes_a_verdict_back(a: float, b: float, p: float, q: float, seeds: int) -> None:
    (low, high), (smaller, larger) = sorted((a, b)), sorted((p, q))
    if verdict(low, high, larger, seeds) is not Verdict.NOT_SEEN:
        assert verdict(low, high, smaller, seeds) is verdict(low, high, larger, seeds)


def at_work(tmp_path: Path, seeds: int, images: int) -> Study:
    splits = load("digits")
    return Study(scale_named("nano"), splits, splits.require("test").head(images), tmp_path, seeds=seeds)


def known(title: str, kept: float, fallen: float) -> Statement:
    """A statement about two attacks on images that fall independently: the first leaves `kept`, the second `fallen`."""

    def contrast(found: Seed) -> np.ndarray:
        draws = np.random.default_rng([found.seed, *title.encode()]).random((2, len(found.study.images)))
        return points(draws[0] < kept, draws[1] < fallen)

    return Statement(title, "§0", (), f"{title} is known.", (UNROLLED,), contrast)


def test_known_effects_have_known_verdicts(tmp_path: Path) -> None:
    statements = (known("strong", 0.9, 0.2), known("against", 0.2, 0.9), known("none", 0.5, 0.5))
    strong, against, none = decide(statements, at_work(tmp_path, 4, 200))
    assert (strong.verdict, against.verdict, none.verdict) == (Verdict.HOLDS, Verdict.REVERSED, Verdict.NOT_SEEN)
    assert strong.low < 70 < strong.high
    assert against.low < -70 < against.high
    assert max(strong.p, against.p) < 0.001
    assert (strong.seeds, strong.images, strong.scale, strong.unit) == (4, 200, "nano", "points")
    for undecided in decide(statements, at_work(tmp_path, 2, 200)):
        assert undecided.verdict is Verdict.UNDECIDED


def test_evidence_goes_on_from_what_is_kept(tmp_path: Path) -> None:
    measured: list[tuple[str, int]] = []

    def counted(title: str) -> Statement:
        def contrast(found: Seed) -> np.ndarray:
            measured.append((title, found.seed))
            found.study.used[f"model of seed {found.seed}"] = str(found.seed)
            return known(title, 0.9, 0.2).contrast(found)

        return replace(known(title, 0.9, 0.2), contrast=contrast)

    alone = [*decide([counted("a (8/7)")], at_work(tmp_path, 1, 40))]
    study = at_work(tmp_path, 2, 40)
    both = [*decide([counted("a (8/7)"), counted("… b")], study)]
    assert measured == [("a (8/7)", 0), ("… b", 0), ("a (8/7)", 1), ("… b", 1)]
    assert study.used == {"model of seed 0": "0", "model of seed 1": "1"}
    assert both == [*decide([counted("a (8/7)"), counted("… b")], at_work(tmp_path, 2, 40))]
    assert alone == [*decide([counted("a (8/7)")], at_work(tmp_path / "elsewhere", 1, 40))]
    assert len(measured) == 5
    list(decide([counted("a (8/7)")], at_work(tmp_path, 1, 39)))
    assert len(measured) == 6

    file = next((tmp_path / "claims").glob("seed-1-*.npz"))
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"seed-1-\w+\.npz is damaged; delete it, and it is measured again"):
        list(decide([counted("a (8/7)")], study))


def test_each_contrast_names_the_code_that_measured_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "code_fingerprint", lambda **_: "first")
    list(decide([known("a", 0.9, 0.2)], at_work(tmp_path, 1, 8)))
    monkeypatch.setattr(evidence, "code_fingerprint", lambda **_: "second")
    found = [*decide([known("a", 0.9, 0.2), known("b", 0.9, 0.2)], at_work(tmp_path, 2, 8))]
    assert [finding.code for finding in found] == [("first", "second"), ("second", "second")]
    assert [*map(Finding.from_plain, (finding.plain() for finding in found))] == found


def test_other_batches_or_another_device_are_other_evidence(tmp_path: Path) -> None:
    study = at_work(tmp_path, 1, 8)
    for other in (study, replace(study, batch_size=7), replace(study, device=torch.device("meta"))):
        list(decide([known("a", 0.9, 0.2)], other))
    assert len([*(tmp_path / "claims").glob("seed-0-*.npz")]) == 3


def test_a_statement_that_needs_more_sizes_than_there_are_is_left_out(tmp_path: Path) -> None:
    statements = (known("a", 0.9, 0.2), replace(known("b", 0.9, 0.2), sizes=3))
    assert [found.title for found in decide(statements, at_work(tmp_path, 1, 8))] == ["a"]


def test_claims_name_the_steps_that_the_attack_takes(tmp_path: Path) -> None:
    study = replace(at_work(tmp_path, 1, 8), effort=Effort(steps=3))
    (found,) = decide([replace(known("PGD-10 hurts", 0.9, 0.2), sentence="PGD-10 leaves less.")], study)
    assert (found.title, found.claim) == ("PGD-3 hurts", "PGD-3 leaves less.")


@pytest.mark.parametrize("steps", [(9, 1), (5, 9), (1, 1)], ids=str)
def test_unrolled_steps_that_are_not_those_of_the_claims_are_refused(steps: tuple[int, ...], tmp_path: Path) -> None:
    study = replace(at_work(tmp_path, 1, 8), estimators=Estimators(steps=steps))
    with pytest.raises(InputError, match=f"^estimators.steps is {', '.join(map(str, steps))}, and the claims"):
        list(decide([known("a", 0.9, 0.2)], study))


def test_evidence_is_made_once_for_each_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(Study, "trained", lambda self, *what: asked.append(what))
    found, calls = Seed(at_work(tmp_path, 1, 4), 5), []

    def measure(study: Study, trained: object, title: str) -> int:
        calls.append(title)
        return len(calls)

    assert [found.of(measure, UNROLLED), found.of(measure, UNROLLED, "nano"), found.of(measure, UNROLLED, "tiny")] == [
        1,
        1,
        2,
    ]
    assert asked == [(UNROLLED, "nano", 5), (UNROLLED, "tiny", 5)]


def test_what_makes_its_own_models_is_made_once_for_each_seed(tmp_path: Path) -> None:
    found, calls = Seed(at_work(tmp_path, 1, 4), 5), []

    def measure(study: Study, seed: int) -> int:
        calls.append(seed)
        return 7

    assert [found.once(measure), found.once(measure)] == [7, 7]
    assert calls == [5]


@given(arrays(bool, (4, 12)), st.integers(0, 3))
def test_rivals_lie_between_the_weakest_and_the_strongest(outcomes: np.ndarray, index: int) -> None:
    means = outcomes.mean(axis=1)
    assert means.min() - 1e-9 <= weakest(outcomes).mean()
    assert mildest(outcomes).mean() <= means.max() + 1e-9
    others = np.delete(outcomes, index, axis=0)
    assert hurts_most(outcomes, index).mean() == pytest.approx(100 * (weakest(others) - outcomes[index]).mean())


def test_every_statement_is_told_apart_and_says_where_the_paper_makes_it() -> None:
    assert len({statement.title for statement in STATEMENTS}) == len(STATEMENTS)
    for statement in STATEMENTS:
        assert statement.sentence.endswith((".", ")."))
        assert any(mark in statement.source for mark in ("§", "Table", "Remark"))
        assert set(statement.configurations) <= set(CLAIMS.configurations)
        assert {experiment.name for experiment in statement.shown} <= set(EXPERIMENTS)


WORDS = (Verdict.HOLDS, Verdict.REVERSED, Verdict.NOT_SEEN, Verdict.UNDECIDED)
ENDS = ((1.0, 5.0, 0.01, 3), (-5.0, -1.0, 0.01, 3), (-1.0, 1.0, 0.4, 3), (1.0, 5.0, 0.01, 2))


def reproduction() -> Reproduction:
    found = tuple(
        Finding(f"t{i}", f"c{i}.", "§6", (low + high) / 2, low, high, "points", p, seeds, 400, "nano")
        for i, (low, high, p, seeds) in enumerate(ENDS)
    )
    return Reproduction("claims", "The paper's text", "claims", (), findings=found)


def test_findings_are_read_as_they_were_written(tmp_path: Path) -> None:
    made = reproduction()
    made.save(tmp_path / "claims.json")
    written = json.loads((tmp_path / "claims.json").read_text())["findings"]
    assert [finding["verdict"] for finding in written] == list(WORDS)
    assert {"claim", "verdict", "effect", "low", "high", "p", "seeds", "images", "scale"} <= set(written[0])
    assert Reproduction.read(tmp_path / "claims.json").findings == made.findings
    lost = replace(made.findings[0], effect=np.nan, low=np.nan, high=np.nan)
    assert lost.plain()["effect"] is None
    assert Finding.from_plain(lost.plain()).verdict is Verdict.NOT_SEEN


def test_every_medium_shows_the_verdicts_in_one_table() -> None:
    made = reproduction()
    table = findings_table(made.findings)
    for text in (markdown(table), reproduction_latex(made)):
        for (i, word), part in product(enumerate(WORDS), "tc"):
            assert f"{part}{i}" in text or part == "t"
            assert word in text


def outcomes_of(images: int, attacked: bool) -> dict[object, object]:
    """What every measurement finds where no attack fools any image, or every attack all."""
    rights = partial(np.full, fill_value=not attacked)
    twice = rights((3, 7, images))
    found: dict[object, object] = {
        residuals: np.linspace(1.0, 0.1, 9)[:, None].repeat(images, axis=1),
        lipschitz_constants: np.full(images, 2.0),
        estimates.coupled: np.stack([np.full(images, 0.5), np.full(images, 0.2)]),
        cost.extra_memory: np.full((2, images + 1), 3.0),
        paper_grid: twice,
        attacked_twice: (twice, twice),
        states_under_ready_made: (np.ones((9, images), bool), rights((9, images))),
        ready_made: rights((6, images)),
        network: rights((3, images)),
        states_under_adjoints: rights((9, 9, images)),
        estimates._as_printed: rights((9, 9, images)),
        distances: dict.fromkeys(
            ("β = 0.5, B_nᵀ", "β = 0.5, B_n as printed"), np.logspace(0, -2, 30)[:, None].repeat(images, axis=1)
        ),
        estimates._early_state: 3,
        estimates._damped: rights((2, 3, 8, images)),
        estimates._undamped: rights((2, 3, 8, images)),
    }
    return found


@pytest.mark.parametrize("attacked", [False, True])
def test_every_claim_is_a_number_per_image_and_nothing_where_attacks_do_not_differ(
    attacked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, known = 6, outcomes_of(6, attacked)
    monkeypatch.setattr(Seed, "of", lambda self, measure, way, size=None: known[measure])
    evidence = Seed(at_work(tmp_path, 1, images), 0)
    evidence.kept[cost._timed] = dict.fromkeys(TITLES, Timing([2.0] * images))
    evidence.kept[final_residuals] = np.full((3, images), 0.5)
    found = {statement.title: statement.contrast(evidence) for statement in STATEMENTS}
    assert {contrast.shape for contrast in found.values()} == {(images,)}
    constants = {
        "exact (8/7) violates the fixed-point structure": 0.1 - 0.75,
        "no Jacobian penalty retains it": 0.5 - 0.1,
        "(18/20) Exact-Trained retains it": 0.1 - 0.1,
        "(8/7) Unrolling-Trained retains it": 0.1 - 0.1,
        "its errors fall from state to state": 0.9 / 8,
        "unrolled training reaches 0.04": 0.045 - 0.1,
        "the adjoint converges, B_nᵀ": 0.1 - 0.01,
        "the adjoint converges, B_n as printed": 0.1 - 0.01,
        "the coupling with x hinders convergence": 0.5 - 0.2,
        "the early state needs constant memory": 1.0,
        "the ensemble defense needs constant memory": 1.0,
    }
    for title, contrast in found.items():
        if "a vanilla" in title:
            expected = 12.0 if attacked else -88.0
        else:
            expected = 10.0 if "competitive" in title else constants.get(title, 0.0)
        np.testing.assert_allclose(contrast, expected, atol=1e-9, err_msg=title)


def untrained(study: Study) -> Trained:
    torch.manual_seed(0)
    return Trained(rd.models.mdeq("nano", in_channels=1).eval(), 3, None, "")


def test_what_the_defenses_hold_beyond_the_final_state_does_not_grow_by_a_state(tmp_path: Path) -> None:
    study = at_work(tmp_path, 1, 4)
    extra = cost.extra_memory(study, untrained(study), "")
    assert extra.shape == (2, 17)
    assert (np.abs(extra[1] - extra[1, 0]) < 1).all()
    assert (np.diff(extra[0]) <= 0).all()
    assert extra[0, 0] < extra[1, 0]


def test_the_joint_iteration_with_x_held_fixed_is_damped_iteration_of_f(tmp_path: Path) -> None:
    study = at_work(tmp_path, 1, 4)
    trained = untrained(study)
    moving, fixed = estimates.coupled(study, trained, "")
    deq, (x, _) = trained.deq, study.tensors()
    with torch.no_grad():
        _, cell, z = deq.bind(x)
        for _ in range(deq.solver.max_steps):
            z = (z + cell(z)) / 2
        value = cell(z)
    expected = (value - z).flatten(1).norm(dim=1) / value.flatten(1).norm(dim=1)
    np.testing.assert_allclose(fixed, expected.double().numpy(), rtol=1e-3)
    assert (np.abs(moving - fixed) > 1e-6).all()


@given(arrays(bool, (3, 4, 12)), st.integers(0, 2))
def test_the_best_defense_beats_none_by_more_than_the_others_lose(grid: np.ndarray, index: int) -> None:
    left = np.stack([weakest(row[1:]) for row in grid])
    ahead = best_defense(grid, index).mean()
    assert ahead == pytest.approx(100 * (left[index] - mildest(np.delete(left, index, axis=0))).mean())
    assert ahead >= 100 * (left[index].mean() - np.delete(left, index, axis=0).mean(axis=1).max()) - 1e-9
