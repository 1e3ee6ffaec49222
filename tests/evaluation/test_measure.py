"""The grid is what its definition says, cell by cell."""

import copy
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import robustdeq as rd
from robustdeq.attacks import PGD, AutoAttack
from robustdeq.attacks.losses import correct
from robustdeq.base.errors import InputError
from robustdeq.deq.defenses import Defense, EarlyState, EnsembleState, FinalState
from robustdeq.deq.gradients import own_gradient
from robustdeq.evaluation import (
    Chosen,
    Column,
    Estimators,
    GridResult,
    Paper,
    choose_early_state,
    measure,
    state_profile,
    white_box_grid,
    wilson_interval,
)
from robustdeq.evaluation.column import Attempt, Row
from robustdeq.evaluation.job import _Batch
from robustdeq.evaluation.measure import plan
from robustdeq.evaluation.store import FILE, Store
from robustdeq.gradients import SHINE, Defended, Exact, Gradient, Phantom, StateGradient, Surrogate, ThroughSolver
from robustdeq.models import DEQ

pytestmark = pytest.mark.xdist_group("measure")
EARLY, LAST, SAMPLES, BATCH = 2, 4, 16, 10
ATTACK = PGD(eps=0.1, step_size=0.07, steps=2, seed=4)
ESTIMATORS = Estimators(steps=(1,), dampings=(1.0,))
DEFENSES: dict[str, Defense] = {"final": FinalState(), "early": EarlyState(EARLY), "ensemble": EnsembleState()}
CLIMBED: list[tuple[Gradient, ...]] = [
    *(column.gradients for column in ESTIMATORS.candidates(LAST)),
    *((ThroughSolver(defense),) for defense in (FinalState(), EarlyState(EARLY), EnsembleState())),
]


@pytest.fixture(scope="module")
def deq(trained: DEQ) -> DEQ:
    """A model whose images are classified differently by different states and attacks."""
    assert trained.last_state == LAST
    return trained


@pytest.fixture(scope="module")
def columns(deq: DEQ) -> list[Column]:
    rows = [Row(name, deq, defense) for name, defense in DEFENSES.items()]
    return Paper(ATTACK, ESTIMATORS).columns(deq, rows, {})


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    return rd.data.load("digits").require("test").head(SAMPLES).tensors()


@pytest.fixture(scope="module")
def development() -> tuple[Tensor, Tensor]:
    return rd.data.load("digits").require("development").head(40).tensors()


def grid(deq: DEQ, data: tuple[Tensor, Tensor], **settings: Any) -> GridResult:
    return white_box_grid(
        deq, *data, **{"attack": ATTACK, "early": EARLY, "estimators": ESTIMATORS, "batch_size": BATCH} | settings
    )


@pytest.fixture(scope="module")
def result(deq: DEQ, data: tuple[Tensor, Tensor]) -> GridResult:
    return grid(deq, data)


def outcomes(deq: DEQ, x: Tensor, y: Tensor) -> np.ndarray:
    with torch.no_grad():
        judged = [
            torch.cat([correct(Defended(deq, d)(a), b) for a, b in zip(x.split(BATCH), y.split(BATCH), strict=True)])
            for d in DEFENSES.values()
        ]
    return torch.stack(judged).numpy()


def attacked(deq: DEQ, gradient: Gradient, x: Tensor, y: Tensor) -> Tensor:
    batches = zip(x.split(BATCH), y.split(BATCH), strict=True)
    surrogate = Surrogate(deq, gradient).eval()
    return torch.cat([ATTACK(surrogate, a, b) for a, b in batches])


def test_grid_has_a_cell_per_defense_and_column(result: GridResult, columns: list[Column]) -> None:
    assert result.defenses == ("final", f"early (z_{EARLY})", "ensemble")
    assert result.columns == tuple(column.label for column in columns)
    assert result.ids == tuple(column.id for column in columns)
    assert result.ready_made == tuple(id == "unrolled-final" for id in result.ids)
    assert result.beyond_paper == (False,) * 6 + (True,) * 3
    assert result.clean.shape == (3, SAMPLES)
    assert result.per_sample.shape == (3, 9, SAMPLES)
    assert result.accuracy.shape == (3, 9)
    assert result.intervals.shape == (3, 9, 2)


def test_attacks_tell_defenses_and_columns_apart(result: GridResult) -> None:
    assert 0 < result.accuracy.min() < result.accuracy.max() < result.clean.mean(axis=1).max()
    assert any(len(np.unique(result.per_sample[:, j], axis=0)) > 1 for j in range(9))
    assert all(len(np.unique(result.per_sample[i], axis=0)) > 1 for i in range(3))


def test_clean_row_is_each_defense_on_the_images(deq: DEQ, data: tuple[Tensor, Tensor], result: GridResult) -> None:
    assert np.array_equal(result.clean, outcomes(deq, *data))


def test_every_cell_is_that_defense_on_the_adversaries_of_the_candidate_that_hurts_the_early_state_most(
    deq: DEQ, data: tuple[Tensor, Tensor], result: GridResult
) -> None:
    x, y = data
    searched = set()
    for j, gradients in enumerate(CLIMBED):
        judged = [outcomes(deq, attacked(deq, gradient, x, y), y) for gradient in gradients]
        early = [int(outcome[1].sum()) for outcome in judged]
        strongest = early.index(min(early))
        searched.add(strongest)
        if len(gradients) > 1:
            assert (result.climbed[j], result.gradients[j]) == (strongest, gradients[strongest].label)
        assert np.array_equal(result.per_sample[:, j], judged[strongest])
    assert len(searched) > 1


def test_accuracy_is_the_share_that_stands(result: GridResult) -> None:
    for i, j in np.ndindex(3, 9):
        assert result.accuracy[i, j] == sum(result.per_sample[i, j]) / SAMPLES
        low, high = result.intervals[i, j]
        assert (low, high) == wilson_interval(int(sum(result.per_sample[i, j])), SAMPLES)


def test_robustness_is_the_minimum_over_the_columns_of_the_paper(result: GridResult) -> None:
    assert result.robustness.tolist() == [min(row[:6]) for row in result.accuracy]


def test_worst_case_counts_every_adversary_that_was_made_those_of_beaten_candidates_included(
    deq: DEQ, data: tuple[Tensor, Tensor], result: GridResult
) -> None:
    x, y = data
    judged = [outcomes(deq, attacked(deq, gradient, x, y), y) for column in CLIMBED for gradient in column]
    standing = result.clean & np.logical_and.reduce(judged)
    assert np.array_equal(result.standing, standing)
    for i in range(3):
        assert result.worst_case[i] == standing[i].sum() / SAMPLES <= result.robustness[i]
        assert tuple(result.worst_case_intervals[i]) == wilson_interval(int(standing[i].sum()), SAMPLES)


def test_worst_case_counts_what_only_a_beaten_candidate_broke() -> None:
    clean, stands = np.array([[True, True]]), np.array([[[True, True]]])
    made = GridResult(("d",), ("a",), ("",), (False,), clean, stands, np.array([[True, False]]))
    assert (made.robustness.tolist(), made.worst_case.tolist()) == ([1.0], [0.5])


def test_robustness_leaves_out_what_the_paper_lacks_and_the_worst_case_does_not() -> None:
    stands = np.array([[[True, True, True, False], [True, False, False, False]]])
    clean = np.array([[False, True, True, True]])
    made = GridResult(("d",), ("a", "b"), ("", ""), (False, True), clean, stands)
    assert made.robustness.tolist() == [0.75]
    assert made.worst_case.tolist() == [0.0]
    assert replace(made, clean=~clean).worst_case.tolist() == [0.25]


def test_result_does_not_depend_on_the_batch_size(deq: DEQ, data: tuple[Tensor, Tensor]) -> None:
    double, (x, y) = (
        rd.models.mdeq(replace(rd.models.PRESETS["nano"], max_steps=LAST - 1), in_channels=1).double(),
        data,
    )
    double.load_state_dict(deq.state_dict())
    attack = replace(ATTACK, steps=1)
    results = [
        grid(double, (x[:6].double(), y[:6]), attack=attack, batch_size=batch_size).per_sample for batch_size in (4, 6)
    ]
    assert np.array_equal(*results)


def test_rows_that_are_chosen_are_those_of_the_whole_table(
    deq: DEQ, data: tuple[Tensor, Tensor], result: GridResult
) -> None:
    alone = measure(deq, *data, Paper(ATTACK, ESTIMATORS), rows=["final"], batch_size=BATCH)
    assert alone.defenses == ("final",)
    for id in ("unrolled-final", "through-final"):
        whole = result.per_sample[0, result.ids.index(id)]
        np.testing.assert_array_equal(alone.per_sample[0, alone.ids.index(id)], whole)
    assert "through-ensemble" not in alone.ids
    with pytest.raises(InputError, match="there is no row 'finals'; did you mean final"):
        measure(deq, *data, Paper(ATTACK), rows=["finals"])
    with pytest.raises(InputError, match="the early-state defense needs its state"):
        measure(deq, *data, Paper(ATTACK), rows=["final", "early"])
    with pytest.raises(InputError, match="rows are chosen among those of the protocol; leave them out"):
        measure(deq, *data, Paper(ATTACK), rows=["final"], defenses={"final": FinalState()})


def test_same_seed_gives_the_same_result(deq: DEQ, data: tuple[Tensor, Tensor]) -> None:
    few, attack = (data[0][:6], data[1][:6]), replace(ATTACK, steps=1)
    first, again = (grid(deq, few, attack=attack) for _ in range(2))
    assert np.array_equal(again.per_sample, first.per_sample)
    assert again.settings == first.settings
    assert again.profiles == first.profiles


def test_frame_has_a_row_per_defense(result: GridResult) -> None:
    frame = result.to_frame()
    assert list(frame.index) == list(result.defenses)
    summary = ["minimum (paper)", "worst case", "worst case, low", "worst case, high"]
    assert list(frame.columns) == ["clean", *result.columns, *summary]
    assert frame["clean"].tolist() == result.clean.mean(axis=1).tolist()
    assert np.array_equal(frame[list(result.columns)].to_numpy(), result.accuracy)
    assert np.array_equal(frame[summary[2:]].to_numpy(), result.worst_case_intervals)


def test_saved_files_parse_back_to_the_same_numbers(deq: DEQ, result: GridResult, tmp_path: Path) -> None:
    result.save(tmp_path / "results.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.csv", "results.json"]
    table = pd.read_csv(tmp_path / "results.csv", index_col="defense", float_precision="round_trip")
    pd.testing.assert_frame_equal(table, result.to_frame(), check_exact=True)
    saved = json.loads((tmp_path / "results.json").read_text())
    assert saved["samples"] == SAMPLES
    assert saved["settings"]["attack"]["eps"] == ATTACK.eps
    assert saved["settings"]["early"] == EARLY
    size = sum(parameter.numel() for parameter in deq.parameters())
    assert saved["settings"]["model"] == {"class": type(deq).__name__, "parameters": size}
    for i, row in enumerate(saved["defenses"]):
        assert row["name"] == result.defenses[i]
        assert row["worst_case"] == result.worst_case[i]
        assert row["minimum_paper"] == result.robustness[i]
        assert row["clean_per_sample"] == "".join(str(int(stands)) for stands in result.clean[i])
        for j, cell in enumerate(row["attacks"]):
            assert (cell["id"], cell["name"]) == (result.ids[j], result.columns[j])
            assert cell["climbs"] == result.gradients[j]
            assert cell["role"] == ("beyond the paper" if result.beyond_paper[j] else "paper")
            assert cell["ready_made"] == (cell["id"] == "unrolled-final")
            assert cell["accuracy"] == result.accuracy[i, j]
            assert cell["interval"] == result.intervals[i, j].tolist()
            assert cell["per_sample"] == "".join(str(int(stands)) for stands in result.per_sample[i, j])


def test_table_does_not_take_the_place_of_the_results(result: GridResult, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        result.save(tmp_path / "results.csv")


def test_profiles_are_those_of_the_images_and_of_the_ready_made_adversaries(
    deq: DEQ, data: tuple[Tensor, Tensor], result: GridResult
) -> None:
    x, y = data
    adversaries = attacked(deq, ESTIMATORS.final, x, y)
    assert result.profiles == {
        "clean": state_profile(deq, x, y, BATCH),
        "ready-made attack": state_profile(deq, adversaries, y, BATCH),
    }
    for n in range(1, LAST + 1):
        with torch.no_grad():
            stands = correct(Defended(deq, EarlyState(n))(x), y)
        assert result.profiles["clean"].accuracy[n - 1] == pytest.approx(float(stands.double().mean()))


def test_profile_leaves_a_model_in_training_as_it_was(deq: DEQ, data: tuple[Tensor, Tensor]) -> None:
    expected, model = state_profile(deq, *data), copy.deepcopy(deq).train()
    assert state_profile(model, *data) == expected
    assert model.training
    assert all(torch.equal(tensor, deq.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_early_state_is_the_intermediate_one_most_robust_on_development(
    deq: DEQ, data: tuple[Tensor, Tensor], development: tuple[Tensor, Tensor]
) -> None:
    x, y = development
    adversaries = attacked(deq, ESTIMATORS.final, x, y)
    with torch.no_grad():
        robust = [
            sum(
                int(correct(Defended(deq, EarlyState(n))(a), b).sum())
                for a, b in zip(adversaries.split(BATCH), y.split(BATCH), strict=True)
            )
            for n in range(1, LAST)
        ]
    assert len(set(robust)) > 1
    chosen = robust.index(max(robust)) + 1
    assert choose_early_state(deq, x, y, ATTACK, ESTIMATORS.final, BATCH) == chosen
    few = (data[0][:4], data[1][:4])
    attack = replace(ATTACK, steps=1)
    found = grid(deq, few, attack=attack, early=None, development=development)
    expected = choose_early_state(deq, x, y, attack, own_gradient(deq), BATCH)
    assert found.settings["early"] == expected
    assert found.defenses[1] == f"early (z_{expected})"


@pytest.mark.parametrize("gradient", [Exact(7, 1e-3), Phantom(2), SHINE(), None])
def test_early_state_is_chosen_by_the_gradient_that_the_weights_are_trained_with(
    deq: DEQ,
    data: tuple[Tensor, Tensor],
    development: tuple[Tensor, Tensor],
    gradient: StateGradient | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    climbed = []

    def choose(deq: DEQ, x: Tensor, y: Tensor, attack: PGD, gradient: Gradient, batch_size: int) -> int:
        climbed.append(gradient)
        return 2

    monkeypatch.setattr(sys.modules[plan.__module__], "choose_early_state", choose)
    model = deq.with_settings(gradient=gradient)
    job = plan(model, *data, Paper(ATTACK, ESTIMATORS), development=development)
    assert job.settings["early"] == 2
    assert climbed == [own_gradient(model)]
    assert gradient is None or climbed == [gradient]


def test_report_rises_to_one(deq: DEQ, data: tuple[Tensor, Tensor], columns: list[Column]) -> None:
    calls: list[tuple[float, str]] = []
    x, y = data
    attack = replace(ATTACK, steps=1)
    grid(deq, (x[:6], y[:6]), attack=attack, batch_size=3, report=lambda share, what: calls.append((share, what)))
    shares = [share for share, _ in calls]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert 0.5 < shares[-2] < shares[-1] == 1
    assert {what for _, what in calls} >= {f"{column.label}, batch {i} of 2" for column in columns for i in (1, 2)}


@pytest.fixture
def mixed(deq: DEQ) -> Iterator[DEQ]:
    """The model in training mode, except for its injection; one parameter is frozen."""
    deq.train()
    deq.injection.eval()
    next(deq.head.parameters()).requires_grad_(False)
    yield deq
    next(deq.head.parameters()).requires_grad_(True)
    deq.eval()


class Interrupted(Exception):
    pass


def interrupt(share: float, what: str) -> None:
    if share > 0:
        raise Interrupted


@pytest.mark.parametrize("interrupted", [False, True])
def test_model_is_left_as_it_was(mixed: DEQ, data: tuple[Tensor, Tensor], interrupted: bool) -> None:
    modes = [module.training for module in mixed.modules()]
    needs = [parameter.requires_grad for parameter in mixed.parameters()]
    state = {name: tensor.clone() for name, tensor in mixed.state_dict().items()}
    few, attack = (data[0][:3], data[1][:3]), replace(ATTACK, steps=1)
    if interrupted:
        with pytest.raises(Interrupted):
            grid(mixed, few, attack=attack, report=interrupt)
    else:
        grid(mixed, few, attack=attack)
    assert [parameter.requires_grad for parameter in mixed.parameters()] == needs
    assert all(torch.equal(tensor, state[name]) for name, tensor in mixed.state_dict().items())
    assert all(parameter.grad is None for parameter in mixed.parameters())
    assert [module.training for module in mixed.modules()] == modes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"protocol": "strictest"}, "there is no protocol 'strictest'"),
        ({"early": None}, "give early=n, or a development set to choose it on"),
        ({"early": 0}, "state 0 cannot be an early state"),
        ({"early": LAST + 1}, "state 5 does not exist in this model; its solver makes states 1 to 3"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 2.5}, "batch_size is 2.5; give a whole number of 1 or more"),
        ({"attack": replace(ATTACK, targeted=True)}, "attack.targeted is true; an evaluation asks which images leave"),
        ({"attack": AutoAttack(ATTACK.eps)}, "attack is AutoAttack; a protocol climbs with PGD"),
        ({"beside": {f"early (z_{EARLY})": EnsembleState()}}, r"there is a row 'early \(z_\d\)' already"),
        ({"protocol": Chosen(ATTACK)}, "there is no attack to make: give the protocol one"),
        *(
            ({"attacks": {name: ATTACK}}, f"there is a column '{name}' already")
            for name in ("clean", "worst case", "certified")
        ),
        (
            {"protocol": Chosen(ATTACK, {"big": (replace(ATTACK, eps=0.9), None)})},
            "the attack 'big' has .*eps=0.9.*, and this evaluation",
        ),
    ],
    ids=str,
)
@pytest.mark.usefixtures("unchecked")
def test_setting_that_cannot_be_is_refused(
    deq: DEQ, data: tuple[Tensor, Tensor], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        grid(deq, data, **settings)


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_tensor_is_refused(deq: DEQ, data: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(InputError, match="x is ndarray; give a tensor"):
        grid(deq, (data[0].numpy(), data[1]))  # pyright: ignore[reportArgumentType]


def test_a_protocol_is_found_by_its_name(deq: DEQ, data: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(InputError, match="give early=n, or a development set to choose it on"):
        measure(deq, *data, "paper")
    with pytest.raises(InputError, match="there is no protocol 'strictest'"):
        measure(deq, *data, "strictest")


@pytest.mark.parametrize("spoil", [lambda x: 2 * x, lambda x: x - 0.1, lambda x: x / 0], ids=["bright", "dark", "nan"])
def test_images_that_cannot_be_attacked_are_refused(deq: DEQ, data: tuple[Tensor, Tensor], spoil: Any) -> None:
    x, y = data
    with pytest.raises(InputError, match="x has pixels"):
        grid(deq, (spoil(x), y))


def test_label_that_the_model_lacks_is_refused(deq: DEQ, data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    with pytest.raises(InputError, match=r"y has labels from .* to 10, and the model has classes 0 to 9"):
        grid(deq, (x, y.clone().fill_(10)))


def test_evaluation_under_way_is_not_discarded_by_another(
    deq: DEQ, data: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    few, seen = (data[0][:2], data[1][:2]), list[bytes]()

    def meanwhile(share: float, what: str) -> None:
        if not seen and share > 0.5:
            seen.append((tmp_path / FILE).read_bytes())
            with pytest.raises(InputError, match="another process works in"):
                grid(deq, few, folder=tmp_path, overwrite=True)
            assert (tmp_path / FILE).read_bytes() == seen[0]

    found = grid(deq, few, folder=tmp_path, report=meanwhile)
    assert seen
    np.testing.assert_array_equal(found.per_sample, grid(deq, few).per_sample)


def test_work_that_is_found_done_is_looked_at_once_per_run(
    deq: DEQ, data: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, looks, usual = (data[0][:8], data[1][:8]), list[int](), _Batch.attacked
    grid(deq, few, folder=tmp_path, batch_size=1)
    with Store.read(tmp_path / FILE) as store:
        runs = len([*store])

    def attacked(self: _Batch, attempt: Attempt) -> np.ndarray:
        looks.append(self.number)
        return usual(self, attempt)

    monkeypatch.setattr(_Batch, "attacked", attacked)
    grid(deq, few, folder=tmp_path, batch_size=1)
    assert len(looks) <= runs
