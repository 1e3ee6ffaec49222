"""What a run writes down while it runs."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from runs import CPU, SHORT, column, digits, fit, model, recipe, record, rows
from torch import Tensor, nn
from typing_extensions import override

from robustdeq.training import JacobianRegularization, Regularization, Standard
from robustdeq.training.metrics import rows_until
from robustdeq.training.objectives import Adversaries, Moment, Reading


@pytest.mark.parametrize(("validations", "steps"), [(1, [10]), (2, [5, 10]), (3, [4, 8, 10]), (99, list(range(1, 11)))])
def test_validations_are_evenly_spaced_and_one_follows_the_last_step(
    validations: int, steps: list[int], tmp_path: Path
) -> None:
    schedule = replace(SHORT, max_steps=10, validations=validations, log_every=100)
    fit(model(), digits(), recipe(schedule=schedule), tmp_path, hardware=CPU)
    assert [entry["step"] for entry in record(tmp_path)["history"]] == steps
    assert [int(row["step"]) for row in rows(tmp_path)] == steps
    for name in ("clean", "robust", "diverged", "final_residual", "spectral_radius", "lipschitz"):
        found = [entry[name] for entry in record(tmp_path)["history"]]
        assert column(tmp_path, name) == pytest.approx(found, rel=1e-5)


def test_rows_hold_what_was_measured_in_their_own_step(tmp_path: Path) -> None:
    regularization = Regularization(JacobianRegularization(weight=0.5, frequency=0.5, until=0.6))
    schedule = replace(SHORT, log_every=2)
    fit(model(), digits(), recipe(schedule=schedule, regularization=regularization), tmp_path / "2", hardware=CPU)
    schedule = replace(SHORT, log_every=1)
    fit(model(), digits(), recipe(schedule=schedule, regularization=regularization), tmp_path / "1", hardware=CPU)
    trained = [row for row in rows(tmp_path / "1") if row["loss"]]
    assert [int(row["step"]) for row in trained] == list(range(1, 17))
    assert [row for row in rows(tmp_path / "2") if row["loss"]] == trained[1::2]
    assert {bool(row["jacobian"]) for row in trained[:8]} == {True, False}
    assert not any(row["jacobian"] for row in trained[10:])
    assert all(row[name] for row in trained for name in ("loss", "accuracy", "residual", "solver_steps"))
    assert not any(row[name] for row in trained for name in ("clean", "robust", "correction"))
    assert float(trained[-1]["learning_rate"]) == pytest.approx(1e-3)


def test_progress_rises_to_one_by_equal_steps(tmp_path: Path) -> None:
    said: list[tuple[float, str]] = []
    schedule = replace(SHORT, max_steps=6, validations=2, accumulate=2)
    report = lambda share, what: said.append((share, what))  # noqa: E731
    fit(model(), digits(), recipe(schedule=schedule), tmp_path, report, hardware=CPU)
    assert [share for share, _ in said] == pytest.approx([step / 6 for step in range(1, 7)])
    assert all(what.startswith(f"step {step}/6, ") and "loss" in what for step, (_, what) in enumerate(said, 1))
    assert "clean" not in said[2][1]
    assert "clean" in said[3][1]
    assert "PGD" in said[3][1]


@dataclass(frozen=True)
class Numbered(Standard):
    """The loss of a part is 1, 2, 3, …; no weight depends on it."""

    counted: list[float] = field(default_factory=list, repr=False)

    @override
    def read(self, model: nn.Module, x: Tensor, y: Tensor, found: Adversaries, moment: Moment) -> Reading:
        reading = super().read(model, x, y, found, moment)
        self.counted.append(len(self.counted) + 1.0)
        return replace(reading, loss=0 * reading.loss + self.counted[-1])


def test_loss_of_a_step_is_the_mean_of_its_parts(tmp_path: Path) -> None:
    schedule = replace(SHORT, max_steps=6, accumulate=4)
    fit(model(), digits(), recipe(objective=Numbered(), schedule=schedule), tmp_path, hardware=CPU)
    assert column(tmp_path, "loss") == [4 * step + 2.5 for step in range(6)]


def test_rows_beyond_a_step_and_rows_cut_short_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss\n1,2.5\n2,2.4\n2,\n3,2.3\n1,2")
    assert [row["step"] for row in rows_until(path, 2)] == ["1", "2", "2"]
    assert rows_until(path, 0) == []
    assert rows_until(tmp_path / "missing.csv", 2) == []
