"""Input entropy reduction beside the bare model, attacked as published and adaptively."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

import robustdeq as rd
from cells import make_deq
from robustdeq.attacks import PGD
from robustdeq.attacks.losses import correct
from robustdeq.base.errors import InputError
from robustdeq.deq.defenses import EnsembleState, FinalState
from robustdeq.evaluation import Adaptive, Estimators, measure
from robustdeq.evaluation.column import Row
from robustdeq.gradients import Defended, EntropyReduced, EntropyReduction, Surrogate, ThroughSolver
from robustdeq.models import MDEQ

ATTACK = PGD(eps=0.1, step_size=0.05, steps=2)
REDUCTION = EntropyReduction(interval=2, steps=2, step_size=0.05, eps=0.1)


def test_every_column_is_its_attack_judged_with_and_without_the_defense(trained: MDEQ) -> None:
    deq = trained
    x, y = rd.data.load("digits").require("test").head(12).tensors()
    result = measure(deq, x, y, Adaptive(ATTACK, Estimators(), REDUCTION), batch_size=12)
    assert result.defenses == ("undefended", "entropy reduction")
    assert result.beyond_paper == (False, False, True, True, True, True)

    readers = Defended(deq, FinalState()), EntropyReduced(deq, REDUCTION)
    bare = Surrogate(deq, ThroughSolver(FinalState()))
    shortened = EntropyReduced(deq, replace(REDUCTION, steps=1), "straight-through")
    halfway = ATTACK(bare, x, y)
    expected = [
        ATTACK(Surrogate(deq, Estimators().final), x, y),
        halfway,
        ATTACK(EntropyReduced(deq, REDUCTION), x, y),
        ATTACK(EntropyReduced(deq, REDUCTION, "straight-through"), x, y),
        ATTACK(shortened, x, y),
        ATTACK.run(shortened, x, halfway, partial(ATTACK.loss, y=y)),
    ]
    for j, adversaries in enumerate(expected):
        with torch.no_grad():
            for i, reader in enumerate(readers):
                assert np.array_equal(result.per_sample[i, j], correct(reader(adversaries), y).numpy())
    assert len(np.unique(result.per_sample.reshape(-1, 12), axis=0)) > 2


def test_the_strongest_attack_is_made_on_the_defense_whatever_rows_are_beside_it() -> None:
    deq, protocol = make_deq().eval(), Adaptive(ATTACK, Estimators(), REDUCTION)
    rows = [Row(name, deq, defense) for name, defense in protocol.defenses(None).items()]
    alone, beside = (protocol.columns(deq, all, {}) for all in (rows, [*rows, Row("mine", deq, EnsembleState())]))
    assert [attempt.against and attempt.against.id for column in beside for attempt in column.attempts] == [
        *(None, None, *["entropy reduction"] * 3, "mine", "entropy reduction")
    ]
    assert all(len(column.attempts) == 1 for column in beside)
    assert beside[-1].attempts[0].key == alone[-1].attempts[0].key


def test_two_defenses_of_one_kind_are_told_apart() -> None:
    x, y = torch.rand(2, 1, 2, 3), torch.zeros(2, dtype=torch.long)
    rows = {"final": FinalState(), "short": REDUCTION, "long": replace(REDUCTION, steps=3)}
    result = measure(make_deq().eval(), x, y, Adaptive(ATTACK, Estimators(), REDUCTION), defenses=rows)
    assert result.defenses == tuple(rows)
    assert {name for name in rows if any(f", {name}, " in label for label in result.columns)} == {"short", "long"}


@pytest.mark.parametrize(
    "defenses", [{"final": FinalState()}, {"mine": REDUCTION}, {"mine": REDUCTION, "final": FinalState()}]
)
def test_rows_without_the_defense_after_the_bare_model_are_refused(defenses: dict[str, rd.defenses.Defense]) -> None:
    x, y = torch.rand(2, 1, 2, 3), torch.zeros(2, dtype=torch.long)
    with pytest.raises(InputError, match="takes the bare model first and entropy reduction after it"):
        measure(make_deq().eval(), x, y, Adaptive(ATTACK, Estimators(), REDUCTION), defenses=defenses)
