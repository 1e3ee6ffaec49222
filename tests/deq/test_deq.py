"""A DEQ computes one value, however it is differentiated, and its gradient is the one it was given."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import dense
from cells import CELLS, TAILS, BoundCellModule, TanhCell, cross_entropy, images, make_deq
from robustdeq.base.errors import InputError
from robustdeq.deq.defenses import EarlyState, FinalState, defended_logits
from robustdeq.deq.model import DEQ
from robustdeq.deq.tail import Unroll
from robustdeq.gradients import (
    SHINE,
    Ensemble,
    Exact,
    Gradient,
    JacobianFree,
    Neumann,
    Phantom,
    Reversed,
    SimultaneousAdjoint,
    StateGradient,
    ThroughSolver,
    UnrolledIntermediate,
)
from robustdeq.solvers import Anderson, Broyden, Solver

pytestmark = pytest.mark.usefixtures("float64")
GRADIENTS: list[StateGradient | None] = [
    None,
    Exact(max_steps=60, tol=1e-12),
    Phantom(5, 0.5),
    Phantom(2, 1.0),
    Neumann(40, 1.0),
    SHINE(),
    JacobianFree(),
    ThroughSolver(),
    ThroughSolver(checkpoint=True),
]
gradients = pytest.mark.parametrize("gradient", GRADIENTS, ids=repr)
tails = pytest.mark.parametrize("tail", TAILS.values(), ids=TAILS)
CONVERGING = Broyden(max_steps=30, tol=1e-13)


def parameter_gradients(deq: DEQ, x: Tensor) -> list[Tensor | None]:
    cross_entropy(deq(x)).sum().backward()
    return [parameter.grad for parameter in deq.parameters()]


@gradients
@tails
@pytest.mark.parametrize("cell", ["expansive", "own-start"])
@pytest.mark.parametrize("solver", [Broyden(max_steps=4, tol=0), Anderson(max_steps=5, tol=1e-1)], ids=["fixed", "tol"])
def test_value_does_not_depend_on_grad_mode_or_gradient(
    gradient: StateGradient | None, tail: Unroll, cell: str, solver: Solver
) -> None:
    if isinstance(gradient, SHINE) and isinstance(solver, Anderson):
        solver = Broyden(max_steps=5, tol=1e-1)
    deq, x = make_deq(cell, solver, tail, gradient), images()
    logits = deq(x)
    assert logits.requires_grad
    with torch.no_grad():
        assert_close(deq(x), logits.detach(), rtol=1e-12, atol=1e-12)
    final = dense.final_state(deq, x, deq.solve(x).solution)
    assert_close(logits, deq.head(final), rtol=1e-12, atol=1e-12)
    assert_close(logits.detach(), defended_logits(deq, x, [FinalState()])[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("gradient", [gradient for gradient in GRADIENTS if gradient is not None], ids=repr)
@tails
@pytest.mark.parametrize("cell", ["bound", "own-start"])
def test_gradient_at_a_fixed_point_is_the_input_gradient(gradient: StateGradient, tail: Unroll, cell: str) -> None:
    deq, x = make_deq(cell, CONVERGING, tail, gradient), images().requires_grad_()
    assert deq.solve(x).converged.all()
    (found,) = torch.autograd.grad(cross_entropy(deq(x)).sum(), x)
    assert_close(found, gradient.input_gradient(deq, x, cross_entropy), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    "gradient", [Exact(60, 1e-12), Neumann(120, 1.0), Phantom(120, 1.0), ThroughSolver()], ids=repr
)
@pytest.mark.parametrize("cell", ["contractive", "bound", "own-start"])
def test_gradients_that_converge_train_with_the_derivative_of_the_fixed_point(
    gradient: StateGradient, cell: str
) -> None:
    deq, x = make_deq(cell, CONVERGING, gradient=gradient), images()
    parameter_gradients(deq, x)
    with torch.no_grad():
        expected = dense.parameter_differences(lambda: cross_entropy(deq(x)).sum(), deq.cell.weight.data[1, 2])
    assert deq.cell.weight.grad is not None
    assert_close(deq.cell.weight.grad[1, 2], expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("cell", CELLS)
def test_differentiating_the_tail_is_the_phantom_gradient_with_its_steps(cell: str) -> None:
    tail, x = TAILS["damped-from-image"], images()
    plain = parameter_gradients(make_deq(cell, tail=tail), x)
    phantom = parameter_gradients(make_deq(cell, tail=tail, gradient=Phantom(5, 0.5)), x)
    assert_close(plain, phantom, rtol=0, atol=0)
    assert all(gradient is not None for gradient in plain)


@pytest.mark.parametrize("module", ["injection", "cell", "head"])
@pytest.mark.parametrize("gradient", [Exact(), Neumann(), SHINE(), JacobianFree()], ids=repr)
def test_implicit_gradients_reach_every_module(module: str, gradient: StateGradient) -> None:
    deq = make_deq("bound", gradient=gradient)
    parameter_gradients(deq, images())
    for parameter in getattr(deq, module).parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().amax() > 0


@pytest.mark.parametrize("gradient", [Exact(), Phantom(), ThroughSolver()], ids=repr)
def test_binding_a_cell_changes_nothing(gradient: StateGradient) -> None:
    class Unbound(TanhCell):
        def forward(self, z: Tensor, u: Tensor) -> Tensor:
            return torch.tanh(z @ (self.weight * (1.2 / self.weight.norm())).T + u)

    bound = make_deq("bound", gradient=gradient)
    assert isinstance(bound.cell, BoundCellModule)
    unbound = make_deq("bound", gradient=gradient)
    unbound.cell = Unbound(1.2)
    unbound.load_state_dict(bound.state_dict())
    x = images()
    assert_close(bound(x), unbound(x))
    assert_close(parameter_gradients(bound, x), parameter_gradients(unbound, x), rtol=1e-10, atol=1e-12)


def test_solve_keeps_the_final_state_and_its_shape() -> None:
    deq, x = make_deq("convolution", tail=TAILS["damped-from-image"]), images()
    t = deq.solve(x)
    assert t.final.shape == t.state(3).shape == t.shape == (3, 2, 2, 3)
    assert_close(t.final.flatten(1), dense.final_state(deq, x, t.solution))
    assert_close(t.state(deq.last_state), t.final)
    assert not t.states.requires_grad


def test_initial_state_may_depend_on_the_injection() -> None:
    deq, x = make_deq("own-start"), images()
    assert_close(deq.solve(x).initial, torch.sin(2 * deq.injection(x)))


def test_prefix_of_the_solve_needs_no_evaluation_at_its_end() -> None:
    deq, x = make_deq("expansive"), images()
    calls: list[Tensor] = []
    deq.cell.register_forward_hook(lambda *_: calls.append(x))
    prefix = deq.solution(x, until=3).trajectory
    assert len(calls) == 3
    assert_close(prefix.states, deq.solve(x).states[:3], rtol=0, atol=0)


@pytest.mark.parametrize("method", ["forward", "solve", "solution"])
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(3, 1, 2, 3, dtype=torch.uint8), "x has dtype torch.uint8; convert it to floating-point pixels"),
        (torch.zeros(3, 1, 2, 3, dtype=torch.long), "x has dtype torch.int64"),
        (torch.zeros(0, 1, 2, 3), r"x has shape \(0, 1, 2, 3\); give a batch of at least one sample"),
        (torch.zeros(6), r"x has shape \(6,\)"),
    ],
    ids=["uint8", "int64", "empty", "no-batch"],
)
def test_input_that_is_no_batch_of_pixels_is_refused(method: str, x: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        getattr(make_deq(), method)(x)


class Widening(nn.Module):
    def forward(self, z: Tensor, u: Tensor) -> Tensor:
        return torch.cat([z, u], dim=1)


@pytest.mark.parametrize(
    "use",
    [DEQ.forward, DEQ.solve, lambda deq, x: list(deq.solution(x).states(range(1, 2)))],
    ids=["forward", "solve", "stream"],
)
def test_cell_that_changes_the_shape_of_its_state_is_refused(use: Callable[[DEQ, Tensor], object]) -> None:
    deq = make_deq()
    deq.cell = Widening()
    with pytest.raises(InputError, match=r"the cell maps a state of shape \(3, 7\) to \(3, 14\)"):
        use(deq, images())


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"steps": -1}, "steps is -1"), ({"damping": 0.0}, "damping is 0"), ({"damping": 2.0}, "damping is 2")],
)
def test_tail_out_of_range_is_named(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Unroll(**settings)


def test_defaults_are_those_of_the_published_model() -> None:
    deq = DEQ(nn.Flatten(), TanhCell(0.5), nn.Identity())
    assert deq.solver == Broyden(max_steps=8, tol=1e-3, stop="rel")
    assert deq.tail == Unroll(steps=1, damping=1.0)
    assert deq.last_state == 9
    assert EarlyState(9).until(deq.last_state) == 9


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_refused_in_one_sentence(dtype: torch.dtype) -> None:
    deq = make_deq().to(dtype)
    with pytest.raises(InputError, match=rf"the model is in {dtype}, which solvers do not take; convert it to float32"):
        deq(images().to(dtype))


def test_injection_in_another_precision_is_refused_in_one_sentence() -> None:
    deq = make_deq()
    deq.injection.register_forward_hook(lambda module, given, u: u.bfloat16())
    with pytest.raises(InputError, match=r"makes states of dtype torch\.bfloat16, and x has torch\.float64"):
        deq(images())


def test_an_autocast_around_the_model_is_refused_in_one_sentence() -> None:
    deq = make_deq()
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(InputError, match=r"torch.autocast .* execution=Execution\('bfloat16'\)"),
    ):
        deq(images())


WRONG = {
    "solver": ("broyden", "solver is 'broyden'; give a solver"),
    "tail": (5, "tail is 5; give a tail"),
    "gradient": ("exact", "gradient is 'exact'; give a gradient that reads one state"),
}
WRONG_GRADIENTS = [SimultaneousAdjoint(), Ensemble(UnrolledIntermediate())]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", WRONG)
def test_setting_of_another_kind_is_refused(name: str) -> None:
    setting, message = WRONG[name]
    with pytest.raises(InputError, match=message):
        make_deq(**{name: setting})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        make_deq().with_settings(**{name: setting})


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("gradient", WRONG_GRADIENTS, ids=lambda gradient: gradient.label)
def test_gradient_of_several_states_does_not_train(gradient: Gradient) -> None:
    with pytest.raises(InputError, match="give a gradient that reads one state"):
        make_deq(gradient=gradient)  # type: ignore[arg-type]


@pytest.mark.usefixtures("unchecked")
def test_only_settings_are_replaced() -> None:
    deq = make_deq()
    head = deq.head
    for name, setting in {"max_step": 3, "head": nn.Identity(), "solvers": Broyden()}.items():
        with pytest.raises(InputError, match=f"there is no setting of a model '{name}'"):
            deq.with_settings(**{name: setting})
    with pytest.raises(InputError, match=r"solver is the class Broyden; make one of it, Broyden\(…\)"):
        deq.with_settings(solver=Broyden)
    assert deq.head is head
    assert deq.with_settings(gradient=None).gradient is None


@pytest.mark.parametrize(
    "gradient",
    [UnrolledIntermediate(20), ThroughSolver(EarlyState(20)), SHINE(0), SHINE(7), Reversed()],
    ids=lambda gradient: gradient.label,
)
def test_gradient_that_the_model_has_no_state_for_is_refused_when_it_is_asked_for(gradient: StateGradient) -> None:
    deq, x = make_deq(gradient=gradient), images()
    with torch.no_grad():
        assert_close(deq(x), make_deq()(x))
    with pytest.raises(InputError, match=r"does not exist|holds no estimate|cannot be undone"):
        deq(x)
