"""An attack that goes on from where another ended."""

from functools import partial

import pytest
import torch

from cells import images, make_deq
from robustdeq.attacks import PGD, ContinuedPGD, Stages
from robustdeq.base.errors import InputError
from robustdeq.deq.defenses import FinalState
from robustdeq.gradients import Phantom, Surrogate, ThroughSolver

SETTINGS = {"eps": 0.3, "step_size": 0.1, "steps": 3, "bounds": (-20.0, 20.0)}
Y = torch.tensor([0, 1, 2])


def surrogates() -> tuple[Surrogate, Surrogate]:
    deq = make_deq("expansive").eval()
    return Surrogate(deq, Phantom(2, 0.5)).eval(), Surrogate(deq, ThroughSolver(FinalState())).eval()


def test_one_stage_is_pgd() -> None:
    first, _ = surrogates()
    x = images()
    assert torch.equal(ContinuedPGD(**SETTINGS)(Stages([first]).eval(), x, Y), PGD(**SETTINGS)(first, x, Y))


def test_second_stage_starts_where_the_first_ended() -> None:
    first, second = surrogates()
    x = images()
    attack = PGD(**SETTINGS)
    halfway = attack(first, x, Y)
    expected = attack.run(second, x, halfway, partial(attack.loss, y=Y))
    found = ContinuedPGD(**SETTINGS)(Stages([first, second]).eval(), x, Y)
    assert torch.equal(found, expected)
    assert not torch.equal(found, halfway)


def test_as_a_module_it_is_the_last_stage() -> None:
    first, second = surrogates()
    x = images()
    with torch.no_grad():
        assert torch.equal(Stages([first, second]).eval()(x), second(x))


def test_stages_are_needed() -> None:
    first, _ = surrogates()
    with pytest.raises(InputError, match="at least one"):
        Stages([])
    with pytest.raises(InputError, match="give the models to climb as Stages"):
        ContinuedPGD(**SETTINGS)(first, images(), Y)
