"""The joint attack solves for state and adjoint while the input moves."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from cells import CLASSES, IMAGE, cross_entropy, images, make_deq
from dense import apply, image_jacobian, loss_gradient, state_jacobian
from robustdeq import DEQ, InputError, Unroll
from robustdeq.attacks import PGD, JointAttack
from robustdeq.attacks.joint import JointIterate
from robustdeq.attacks.losses import correct
from robustdeq.deq.cell import Execution
from robustdeq.deq.defenses import EarlyState, FinalState
from robustdeq.gradients import Defended, Exact, Phantom, Surrogate
from robustdeq.solvers import Broyden

pytestmark = pytest.mark.usefixtures("float64")


def pixels(n: int) -> Tensor:
    return torch.rand(n, *IMAGE, generator=torch.Generator().manual_seed(3))


def iterates(attack: JointAttack, deq: DEQ, x: Tensor) -> list[JointIterate]:
    return list(attack.iterates(deq, x, cross_entropy, x))


@pytest.mark.parametrize("damping", [1.0, 0.5])
@pytest.mark.parametrize("cell", ["contractive", "own-start", "bound"])
def test_state_and_adjoint_converge_where_the_input_cannot_move(cell: str, damping: float) -> None:
    deq, x = make_deq(cell).eval(), images()
    attack = JointAttack(eps=0, steps=250, damping=damping, bounds=(-10, 10))
    last = iterates(attack, deq, x)[-1]
    z = last.state.flatten(1)
    assert_close(deq.cell(last.state, deq.injection(x)).detach(), last.state, rtol=0, atol=1e-11)
    system = torch.eye(z.shape[1]) - state_jacobian(deq, x, z).mT
    adjoint = torch.linalg.solve(system, loss_gradient(deq, z, cross_entropy))
    assert adjoint.norm() > 0.1
    assert_close(last.adjoint, adjoint, rtol=0, atol=1e-10)
    assert torch.equal(last.x, x)


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_every_step_is_equation_12(norm: str) -> None:
    deq, x = make_deq(), images()
    attack = JointAttack(eps=0.3, step_size=0.1, steps=5, damping=0.7, norm=norm, bounds=(-10, 10))
    z = u = torch.zeros_like(deq.injection(x)).detach()
    moving = x
    for found in iterates(attack, deq, x):
        value = deq.cell(z, deq.injection(moving)).detach()
        pulled = apply(state_jacobian(deq, moving, z).mT, u) + loss_gradient(deq, z, cross_entropy)
        gradient = apply(image_jacobian(deq, moving, z).mT, u).view_as(x)
        z, u = 0.3 * z + 0.7 * value, 0.3 * u + 0.7 * pulled
        moving = attack.threat.project(moving + 0.1 * attack.threat.steepest(gradient, moving), x)
        assert_close(found.state, z)
        assert_close(found.adjoint, u)
        assert_close(found.x, moving)
    lengths = torch.linalg.vector_norm((moving - x).flatten(1), ord={"Linf": torch.inf, "L2": 2, "L1": 1}[norm], dim=1)
    assert ((lengths > 0.25) & (lengths < 0.3 + 1e-12)).all()


def far_from_its_boundaries(n: int) -> tuple[DEQ, Tensor, Tensor]:
    """A contractive model with labels that are its own."""
    deq = make_deq(solver=Broyden(max_steps=20, tol=1e-6), tail=Unroll()).eval()
    with torch.no_grad():
        deq.injection[1].weight.mul_(3)
        x = pixels(n)
        logits = deq(x)
        deq.head[1].bias.sub_(logits.mean(dim=0))
        return deq, x, deq(x).argmax(dim=1)


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.08), ("L2", 0.15)])
def test_fools_about_as_many_as_pgd_along_the_exact_gradient(norm: str, eps: float) -> None:
    deq, x, y = far_from_its_boundaries(200)
    assert len(y.unique()) == CLASSES
    surrogate = Surrogate(deq, Exact()).eval()
    adversaries = {
        "joint": JointAttack(eps, eps / 5, steps=20, norm=norm, damping=1.0, random_start=False)(surrogate, x, y),
        "pgd": PGD(eps, eps / 5, steps=10, norm=norm, random_start=False)(surrogate, x, y),
    }
    fooled = {name: (~correct(deq(found), y)).double().mean() for name, found in adversaries.items()}
    assert 0.2 < fooled["pgd"] < 0.8
    assert abs(fooled["joint"] - fooled["pgd"]) <= 0.03
    assert (adversaries["joint"] - x).abs().max() <= eps + 1e-12
    assert 0 <= adversaries["joint"].min() < adversaries["joint"].max() <= 1


def test_targeted_reaches_its_class_more_often_than_chance() -> None:
    deq, x, y = far_from_its_boundaries(100)
    goal = (y + 1) % CLASSES
    adversaries = JointAttack(0.3, 0.05, steps=30, targeted=True)(deq, x, goal)
    assert correct(deq(adversaries), goal).double().mean() > 0.8


def test_model_counts_and_the_gradient_of_its_surrogate_does_not() -> None:
    deq, x, y = far_from_its_boundaries(10)
    attack = JointAttack(0.1, 0.02, steps=4)
    found = [attack(model, x, y) for model in (deq, Surrogate(deq, Exact()), Surrogate(deq, Phantom()))]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_restarts_are_judged_on_the_target() -> None:
    deq, x, _ = far_from_its_boundaries(100)
    target = Defended(deq, EarlyState(1))
    y = target(x).argmax(dim=1)
    runs = [
        JointAttack(0.1, 0.05, steps=3, restarts=restarts)(Surrogate(deq, Exact()), x, y, target) for restarts in (1, 4)
    ]
    fooled = [~correct(target(run), y) for run in runs]
    assert torch.equal(runs[1][fooled[0]], runs[0][fooled[0]])
    assert 0 < fooled[0].sum() < fooled[1].sum()


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_sample_whose_states_blow_up_stays_and_troubles_nobody(norm: str) -> None:
    class Exploding(nn.Module):
        def forward(self, z: Tensor, u: Tensor) -> Tensor:
            return torch.where(u.abs().amax(dim=1, keepdim=True) > 5, torch.nan, torch.tanh(0.5 * z + u))

    deq = make_deq().eval()
    deq.cell = Exploding()
    x, y = pixels(3) * 0.1, torch.tensor([0, 1, 2])
    attack = JointAttack(0.1, 0.02, steps=6, norm=norm, bounds=(0, 1000))
    alone = attack(deq, x, y)
    x[1] = 1000
    found = attack(deq, x, y)
    assert found.isfinite().all()
    assert_close(found[[0, 2]], alone[[0, 2]])


def test_cell_is_evaluated_as_the_model_says() -> None:
    """In bfloat16 the next state is f in bfloat16, which is not f in full precision."""
    deq, x = make_deq("convolution").float().eval(), images().float()
    full, coarse = (
        next(JointAttack(damping=1.0, bounds=(-20, 20)).iterates(model, x, cross_entropy, x)).state
        for model in (deq, deq.with_settings(execution=Execution("bfloat16")))
    )
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = deq.cell(torch.zeros_like(full), deq.injection(x).float())
    assert_close(coarse, expected.float(), rtol=0, atol=0.02)
    assert not torch.equal(coarse, full)


def test_it_stays_in_the_bounds_that_it_is_given() -> None:
    deq, x, y = far_from_its_boundaries(20)
    attack = JointAttack(2.0, 0.5, steps=5, bounds=(-1.0, 3.0))
    found = attack(deq, 4 * x - 1, y)
    attack.threat.check_adversaries(found, 4 * x - 1)
    assert found.min() == -1
    assert found.max() == 3


def test_weights_are_left_as_they_were() -> None:
    deq, x, y = far_from_its_boundaries(3)
    for _ in JointAttack(0.1, steps=2).iterates(deq, x, cross_entropy, x):
        assert all(p.requires_grad for p in deq.parameters())
    JointAttack(0.1, steps=2)(deq, x, y)
    assert all(p.requires_grad and p.grad is None for p in deq.parameters())


def test_what_it_cannot_use_is_refused() -> None:
    deq, x, y = far_from_its_boundaries(2)
    with pytest.raises(InputError, match="the surrogate is a Linear, which solves nothing; give a DEQ"):
        JointAttack()(nn.Linear(2, 2).eval(), x, y)
    with pytest.raises(InputError, match=r"damping is 0; give a number in \(0, 1\]"):
        JointAttack(damping=0)
    with pytest.raises(InputError, match="step_size is 0"):
        JointAttack(step_size=0)
    assert JointAttack(0.1, steps=2)(Defended(deq, FinalState()), x, y).shape == x.shape
