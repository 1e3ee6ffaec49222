"""Input entropy reduction lowers an entropy within a ball, and is differentiated as the function that it is."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

import dense
from cells import TAILS, cross_entropy, images, make_deq
from robustdeq.attacks import PGD
from robustdeq.base.errors import InputError
from robustdeq.deq.entropy import prediction_entropy
from robustdeq.deq.model import DEQ
from robustdeq.gradients import EntropyReduced, EntropyReduction, ThroughSolver
from robustdeq.solvers import Anderson, Broyden, Picard, Solver

pytestmark = pytest.mark.usefixtures("float64")
STEPS = 6
BOUNDS = (-3.0, 3.0)
LINF = EntropyReduction(interval=2, steps=3, step_size=0.02, eps=0.05, bounds=BOUNDS)
L2 = EntropyReduction(interval=2, steps=3, step_size=0.04, eps=0.1, norm="L2", bounds=BOUNDS)
SOLVERS: dict[str, Solver] = {
    "broyden": Broyden(max_steps=STEPS, tol=0),
    "broyden-freezing": Broyden(max_steps=STEPS, tol=5e-2),
    "anderson": Anderson(max_steps=STEPS, tol=0, history=3),
    "picard": Picard(max_steps=STEPS, tol=0, result="last"),
}
norms = pytest.mark.parametrize("reduction", [LINF, L2], ids=["Linf", "L2"])
Direction = Callable[[Tensor], Tensor]


def pixels(batch: int = 3, seed: int = 3) -> Tensor:
    """Images of different magnitude; some of their pixels lie on the bounds or so near that a move is clipped there."""
    return images(batch, seed).clamp(*BOUNDS)


def smooth_sign(gradient: Tensor, temperature: float) -> Tensor:
    """sign(g), whose derivative is that of tanh(g / (τ mean|g|))."""
    smooth = torch.tanh(gradient / (temperature * gradient.abs().mean(dim=(1, 2, 3), keepdim=True)))
    return smooth + (gradient.sign() - smooth).detach()


def unit(gradient: Tensor) -> Tensor:
    return gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def projected(x: Tensor, center: Tensor, reduction: EntropyReduction) -> Tensor:
    offset, eps = x - center, reduction.eps
    if reduction.norm == "Linf":
        offset = offset.maximum(torch.tensor(-eps)).minimum(torch.tensor(eps))
    else:
        norm = offset.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        offset = offset * torch.where(norm > eps, eps / norm, 1.0)
    return (center + offset).clamp(*reduction.bounds)


def reference(deq: DEQ, reduction: EntropyReduction, center: Tensor, direction: Direction) -> Tensor:
    """The defended logits of a `TanhCell` in plain differentiable operations, Broyden's with dense matrices."""
    moved, z, remaining = center, torch.zeros(len(center), deq.cell.weight.shape[0]), deq.solver.max_steps
    while True:
        u = deq.injection(moved)

        def cell(z: Tensor, u: Tensor = u) -> Tensor:
            return deq.cell(z, u)

        states, _ = dense.broyden(cell, z, min(reduction.interval, remaining))
        remaining -= reduction.interval
        lowest = torch.stack([dense.relative_residual(cell, state) for state in states[1:]]).argmin(dim=0)
        z = torch.stack(states[1:])[lowest, torch.arange(len(center))]
        if remaining <= 0:
            break
        for _ in range(reduction.steps):
            here = moved + 0
            here = here if here.requires_grad else here.requires_grad_()
            probabilities = deq.head(deq.cell(z, deq.injection(here))).softmax(dim=1)
            entropy = -(probabilities * probabilities.log()).sum()
            (gradient,) = torch.autograd.grad(entropy, here, create_graph=True)
            moved = projected(moved - reduction.step_size * direction(gradient), center, reduction)
    z = cell(z) if deq.tail.from_image else z
    for _ in range(deq.tail.steps):
        z = (1 - deq.tail.damping) * z + deq.tail.damping * cell(z)
    return deq.head(z)


def input_gradient(model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(cross_entropy(model(x)).sum(), x)[0]


def without_gradient(model: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return torch.no_grad()(lambda x: cross_entropy(model(x)))


@pytest.mark.parametrize(
    ("cell", "solver", "tail"),
    [("own-start", "broyden-freezing", "step"), ("convolution", "anderson", "damped-from-image")],
)
def test_one_segment_is_the_model(cell: str, solver: str, tail: str) -> None:
    deq, x = make_deq(cell, SOLVERS[solver], TAILS[tail]), pixels()
    defended = EntropyReduced(deq, replace(LINF, interval=STEPS))
    with torch.no_grad():
        assert_close(defended(x), deq(x), rtol=1e-12, atol=1e-12)
    expected = ThroughSolver().input_gradient(deq, x, cross_entropy)
    assert_close(input_gradient(defended, x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("interval", "tail"), [(1, "step"), (2, "image"), (4, "damped-from-image"), (5, "step")])
def test_without_moves_it_is_a_restarted_solve(interval: int, tail: str) -> None:
    deq, x = make_deq("expansive", tail=TAILS[tail]), pixels()
    still = replace(LINF, interval=interval, steps=0)
    expected = reference(deq, still, x, torch.zeros_like).detach()
    with torch.no_grad():
        assert_close(EntropyReduced(deq, still)(x), expected, rtol=1e-11, atol=1e-11)
        hardly = replace(still, steps=2, step_size=1e-13)
        assert_close(EntropyReduced(deq, hardly)(x), expected, rtol=1e-9, atol=1e-10)


@norms
def test_logits_are_those_of_the_moved_solve(reduction: EntropyReduction) -> None:
    deq, x = make_deq("contractive"), pixels()
    expected = reference(deq, reduction, x, torch.sign if reduction.norm == "Linf" else unit).detach()
    for backward in ("through", "straight-through"):
        defended = EntropyReduced(deq, reduction, backward)
        with torch.no_grad():
            assert_close(defended(x), expected, rtol=1e-11, atol=1e-11)
        assert_close(defended(x.requires_grad_()).detach(), expected, rtol=1e-11, atol=1e-11)


@norms
@given(seed=st.integers(0, 1000), step_size=st.floats(1e-5, 1e-3), steps=st.integers(1, 5))
@settings(max_examples=15, deadline=None)
def test_small_moves_lower_the_entropy_and_large_ones_stay_in_the_ball(
    reduction: EntropyReduction, seed: int, step_size: float, steps: int
) -> None:
    deq, x = make_deq("contractive"), pixels(5, seed)
    state = deq.solve(x).state(2)
    small = EntropyReduced(deq, replace(reduction, step_size=step_size, steps=steps, bounds=(-100.0, 100.0)))
    with torch.no_grad():
        moved = small.move(x, state, x)
        assert (prediction_entropy(deq, moved, state) < prediction_entropy(deq, x, state)).all()
        large = EntropyReduced(deq, replace(reduction, step_size=1000 * step_size, steps=steps)).move(x, state, x)
    order = torch.inf if reduction.norm == "Linf" else 2
    assert (torch.linalg.vector_norm((large - x).flatten(1), ord=order, dim=1) <= reduction.eps * (1 + 1e-12)).all()
    assert large.min() >= BOUNDS[0]
    assert large.max() <= BOUNDS[1]


def test_entropy_is_the_one_of_information_theory() -> None:
    deq, x = make_deq("convolution"), pixels()
    state = deq.solve(x).final
    logits = deq.head(deq.cell(state, deq.injection(x)))
    expected = torch.distributions.Categorical(logits=logits).entropy()
    assert_close(prediction_entropy(deq, x, state), expected)


@norms
def test_straight_through_is_the_derivative_with_constant_directions(reduction: EntropyReduction) -> None:
    deq, x = make_deq("expansive"), pixels()
    followed: list[Tensor] = []

    def follow(gradient: Tensor) -> Tensor:
        followed.append((gradient.sign() if reduction.norm == "Linf" else unit(gradient)).detach())
        return followed[-1]

    reference(deq, reduction, x, follow)

    def with_constant_directions(moved: Tensor) -> Tensor:
        constants = iter([d.repeat(len(moved) // len(x), 1, 1, 1) for d in followed])
        return cross_entropy(reference(deq, reduction, moved, lambda _: next(constants))).detach()

    expected = dense.finite_differences(with_constant_directions, x)
    inside = (x.abs() - BOUNDS[1]).abs() > 1e-3
    found = input_gradient(EntropyReduced(deq, reduction, "straight-through"), x)
    assert_close(found[inside], expected[inside], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("cell", "solver"),
    [("contractive", "broyden-freezing"), ("own-start", "anderson"), ("bound", "picard"), ("convolution", "broyden")],
)
def test_through_is_the_derivative_of_the_defended_loss(cell: str, solver: str) -> None:
    deq, x = make_deq(cell, SOLVERS[solver]), pixels()
    defended = EntropyReduced(deq, L2)
    expected = dense.finite_differences(without_gradient(defended), x)
    inside = (x.abs() - BOUNDS[1]).abs() > 1e-3
    found = input_gradient(defended, x)
    assert_close(found[inside], expected[inside], rtol=1e-5, atol=1e-7)
    constant = input_gradient(EntropyReduced(deq, L2, "straight-through"), x)
    assert not torch.allclose(constant[inside], expected[inside], rtol=1e-3)


@pytest.mark.parametrize(("temperature", "tail"), [(0.5, "image"), (2.0, "damped-from-image")])
def test_through_takes_a_smooth_sign_in_the_backward_pass(temperature: float, tail: str) -> None:
    deq, x = make_deq("expansive", tail=TAILS[tail]), pixels()
    found = input_gradient(EntropyReduced(deq, LINF, "through", temperature), x)
    expected = input_gradient(lambda x: reference(deq, LINF, x, lambda g: smooth_sign(g, temperature)), x)
    assert_close(found, expected, rtol=1e-9, atol=1e-10)


@norms
@pytest.mark.parametrize("backward", ["through", "straight-through"])
def test_sample_does_not_depend_on_its_batch(reduction: EntropyReduction, backward: str) -> None:
    deq, x = make_deq("convolution", SOLVERS["broyden-freezing"]), pixels(5)
    x[1] = torch.nan
    defended = EntropyReduced(deq, reduction, backward)
    logits, gradient = defended(x), input_gradient(defended, x)
    assert logits[1].isnan().all()
    order = torch.tensor([4, 2, 1, 0, 3])
    assert_close(defended(x[order]), logits[order], rtol=1e-11, atol=1e-12, equal_nan=True)
    for i in (0, 2, 3, 4):
        alone = x[i : i + 1].clone().requires_grad_()
        found = defended(alone)
        assert_close(found[0], logits[i], rtol=1e-11, atol=1e-12)
        loss = torch.nn.functional.cross_entropy(found, torch.tensor([i % 3]))
        assert_close(torch.autograd.grad(loss, alone)[0][0], gradient[i], rtol=1e-9, atol=1e-11)


@norms
@pytest.mark.parametrize("backward", ["through", "straight-through"])
def test_certain_prediction_is_left_alone(reduction: EntropyReduction, backward: str) -> None:
    deq, x = make_deq("contractive"), pixels()
    with torch.no_grad():
        deq.head[1].bias.copy_(torch.tensor([0.0, 5000.0, 0.0]))
    still = EntropyReduced(deq, replace(reduction, steps=0))
    defended = EntropyReduced(deq, reduction, backward)
    assert_close(defended(x), still(x), rtol=0, atol=0)
    assert_close(input_gradient(defended, x), input_gradient(still, x), rtol=0, atol=0)


@pytest.mark.parametrize("backward", ["through", "straight-through"])
def test_attack_climbs_its_loss_and_leaves_the_weights_alone(backward: str) -> None:
    deq, x = make_deq("contractive").eval(), pixels(10)
    defended = EntropyReduced(deq, L2, backward)
    with torch.no_grad():
        y = defended(x).argmax(dim=1)
        adversaries = PGD(eps=0.3, step_size=0.1, norm="L2", bounds=BOUNDS, steps=5)(defended, x, y)
        before, after = [torch.nn.functional.cross_entropy(defended(z), y, reduction="none") for z in (x, adversaries)]
    assert (after > before).all()
    assert all(parameter.requires_grad and parameter.grad is None for parameter in deq.parameters())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EntropyReduction(interval=0), "interval is 0; a segment of the solve takes at least 1 step"),
        (lambda: EntropyReduction(steps=-1), "steps is -1; a move of the input makes 0 or more steps"),
        (lambda: EntropyReduction(step_size=0.0), "step_size is 0.0; give a positive number"),
        (lambda: EntropyReduction(eps=-1.0), "eps is -1.0; give a radius of 0 or more"),
        (lambda: EntropyReduction(norm="L7"), "norm is 'L7'; choose one of 'Linf', 'L2', 'L1'"),
        (lambda: EntropyReduced(make_deq(), LINF, "exact"), "choose one of 'through', 'straight-through'"),
        (lambda: EntropyReduced(make_deq(), LINF, temperature=0.0), "temperature is 0.0; give a positive number"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_setting_out_of_range_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("interval", [1, 2, 4, 6, 9])
@pytest.mark.parametrize("halvings", [0, 2])
def test_evaluations_are_those_of_all_segments_and_three_for_each_step_of_a_move(interval: int, halvings: int) -> None:
    deq = make_deq(solver=Broyden(max_steps=STEPS, tol=0, line_search=halvings))
    reduction = replace(LINF, interval=interval)
    calls: list[int] = []
    deq.cell.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        reduction.logits(deq, pixels())
    moves = len(reduction.segments(STEPS)) - 1
    assert reduction.evaluations(deq) == len(calls) + 2 * moves * reduction.steps
