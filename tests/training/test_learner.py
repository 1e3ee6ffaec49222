"""A training step has settings of its own; the model that is trained keeps its settings, and lends its weights."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from cells import CLASSES, IMAGE, make_deq
from robustdeq.attacks import PGD
from robustdeq.base.errors import InputError
from robustdeq.deq.cell import Execution
from robustdeq.deq.tail import Unroll
from robustdeq.gradients import Exact, Phantom, ThroughSolver
from robustdeq.training import AdversarialTraining, Recipe, SolverSteps, Standard
from robustdeq.training.learner import learner
from robustdeq.training.step import single_step

pytestmark = pytest.mark.usefixtures("float64")
Y = torch.tensor([0, 2, 1, 1])
X = 0.2 + 0.6 * torch.rand(4, *IMAGE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_views_share_the_weights_and_leave_the_model_as_it_was() -> None:
    deq = make_deq(gradient=Phantom())
    usual, pupil = deq.__dict__ | {}, learner(deq)
    unrolled = pupil.unrolled(3)
    assert unrolled is not None
    views = [pupil.executed(Execution("bfloat16")), pupil.solved(max_steps=2), unrolled, pupil.penalised(-2)]
    assert [view.deq.solver.max_steps for view in views] == [6, 2, 3, 4]
    assert (unrolled.deq.tail, unrolled.deq.gradient) == (Unroll(steps=0), ThroughSolver())
    for view in views:
        assert all(own is lent for own, lent in zip(deq.parameters(), view.model.parameters(), strict=True))
    assert deq.__dict__ == usual


def test_penalised_view_is_not_compiled_and_makes_at_least_one_step() -> None:
    pupil = learner(make_deq()).executed(Execution("bfloat16", compiled=True)).penalised(-9)
    assert (pupil.deq.solver.max_steps, pupil.deq.execution) == (1, Execution("bfloat16"))


def test_single_step_trains_the_model_and_keeps_its_settings() -> None:
    deq = make_deq(gradient=Phantom()).float()
    usual, before = (deq.solver, deq.tail, deq.gradient, deq.execution), deq.head[1].weight.clone()
    recipe = Recipe(AdversarialTraining(PGD(0.1, 0.05, steps=1)), execution=Execution("bfloat16"))
    single_step(deq, replace(recipe, solver_steps=SolverSteps([2], [0])), X.float(), Y)()
    assert (deq.solver, deq.tail, deq.gradient, deq.execution) == usual
    assert not torch.equal(deq.head[1].weight, before)


@pytest.mark.parametrize("gradient", [Exact(9, 1e-3), ThroughSolver(), None], ids=repr)
def test_attacks_climb_the_gradient_of_the_weights(gradient: Exact | ThroughSolver | None) -> None:
    deq = make_deq("expansive", tail=Unroll(3, 0.7), gradient=gradient)
    own = learner(deq).surrogate().gradient
    assert own == (Phantom(3, 0.7) if gradient is None else gradient)
    x = X.clone().requires_grad_()
    (trained,) = torch.autograd.grad(deq(x)[:, 0].sum(), x)
    assert_close(own.input_gradient(deq, X, lambda logits: logits[:, 0]), trained)


def test_network_has_nothing_to_solve() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(6, CLASSES))
    pupil = learner(network)
    assert pupil.solved(max_steps=2) is pupil.penalised(1) is pupil.executed(Execution()) is pupil
    assert pupil.surrogate(Phantom()) is network
    assert pupil.unrolled(3) is None
    with pytest.raises(InputError, match="a Sequential has no intermediate states; choose another objective"):
        _ = pupil.deq
    compiled = pupil.executed(Execution(compiled=True)).model
    assert next(iter(compiled.parameters())) is network[1].weight
    assert network._compiled_call_impl is None


def test_standard_training_has_no_attack_to_change() -> None:
    attack = PGD(0.1, 0.05)
    assert Standard().attacking(attack, 0.5) == Standard()
    assert AdversarialTraining(gradient=Phantom()).attacking(attack, 0.5) == AdversarialTraining(attack, Phantom(), 0.5)
