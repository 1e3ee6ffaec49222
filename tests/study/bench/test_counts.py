"""What must not grow, counted in a way that is the same on every machine."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from typing_extensions import override

import robustdeq as rd
from robustdeq.deq.modes import evaluating
from robustdeq.evaluation import Estimators
from robustdeq.gradients import (
    SHINE,
    Ensemble,
    Exact,
    Gradient,
    JacobianFree,
    Neumann,
    Phantom,
    SimultaneousAdjoint,
    ThroughSolver,
    UnrolledIntermediate,
)
from robustdeq.models import MDEQ
from robustdeq.solvers import Broyden, Picard, Solver
from robustdeq.study.bench.grid import WAYS, Separate
from robustdeq.study.counting import counted
from robustdeq.study.stopwatch import peak_bytes

N, TAIL, IMAGES = 7, 3, 2
STEP = N + 1 + TAIL
WAITS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)


class Waits(TorchDispatchMode):
    """Within it the operations are counted for which the host waits for the device.

    Attributes:
        count: how many there were.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in WAITS
        return func(*args, **kwargs or {})


class Allocations(TorchDispatchMode):
    """Within it the memory is counted that operations ask for, whether or not it is given back.

    Attributes:
        bytes: how much it was.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def storages(tree: Any) -> dict[int, int]:
            held = [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
            return {storage.data_ptr(): storage.nbytes() for storage in held}

        found = func(*args, **kwargs or {})
        known = storages((args, kwargs))
        self.bytes += sum(size for place, size in storages(found).items() if place not in known)
        return found


@pytest.fixture
def deq() -> MDEQ:
    torch.manual_seed(0)
    config = rd.models.mdeq("nano").config
    return rd.models.mdeq(type(config)(**vars(config) | {"max_steps": N, "tol": 0.0, "tail_steps": TAIL})).eval()


@pytest.fixture
def x(deq: MDEQ) -> Tensor:
    return torch.rand(IMAGES, *deq.image_shape)


def loss(logits: Tensor) -> Tensor:
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long), reduction="none")


COSTS: list[tuple[Gradient, int, int]] = [
    (Phantom(4, 0.5), N + 1 + 4, 4),
    (Neumann(4, 0.5), STEP + 1, 4),
    (JacobianFree(), STEP + 1, 1),
    (SHINE(), STEP + 1, 1),
    (SHINE(3), 4 + 1, 1),
    (SHINE(N), N + 1 + 1, 1),
    (Exact(max_steps=6, tol=0.0), STEP + 1, 6 + 2),
    (UnrolledIntermediate(3, steps=2), 3 + 2, 2),
    (SimultaneousAdjoint(3), 3 + 1, 3),
    (SimultaneousAdjoint(), STEP + 1, N + 1),
    (Ensemble(SimultaneousAdjoint()), STEP + 1, N + 1),
    (Ensemble(UnrolledIntermediate(steps=2)), STEP + 2 * (N + 1), 2 * (N + 1)),
    (ThroughSolver(), STEP, STEP),
    (ThroughSolver(checkpoint=True), 2 * STEP, STEP),
    (ThroughSolver(rd.defenses.EarlyState(3)), 3, 3),
    (ThroughSolver(rd.defenses.EnsembleState()), STEP, STEP),
]


@pytest.mark.parametrize(("gradient", "evaluations", "products"), COSTS, ids=lambda value: repr(value))
def test_gradients_cost_what_the_model_of_cost_says(
    deq: MDEQ, x: Tensor, gradient: Gradient, evaluations: int, products: int
) -> None:
    with evaluating(deq), counted(deq) as found:
        gradient.input_gradient(deq, x, loss)
    assert (found.forward, found.backward) == (evaluations * IMAGES, products * IMAGES)
    assert found.total <= gradient.evaluations(deq) * IMAGES


@pytest.mark.parametrize("family", [SimultaneousAdjoint(), UnrolledIntermediate(steps=2)], ids=repr)
def test_a_sweep_over_all_states_costs_no_more_than_the_ensemble(
    deq: MDEQ, x: Tensor, family: SimultaneousAdjoint | UnrolledIntermediate
) -> None:
    with evaluating(deq):
        with counted(deq) as swept:
            gradients = family.input_gradients(deq, x, loss)
        with counted(deq) as summed:
            ensemble = Ensemble(family).input_gradient(deq, x, loss)
    assert swept == summed
    torch.testing.assert_close(gradients.sum(dim=0), ensemble)


def test_a_solve_evaluates_f_once_per_step(deq: MDEQ, x: Tensor) -> None:
    with torch.no_grad(), counted(deq) as found:
        deq.solution(x).trajectory  # noqa: B018
    assert (found.forward, found.backward) == ((N + 1) * IMAGES, 0)


def test_a_solve_that_takes_all_its_steps_never_waits_for_the_device(deq: MDEQ, x: Tensor) -> None:
    elsewhere = deepcopy(deq).to("meta")
    with torch.no_grad(), Waits() as waits:
        assert elsewhere.solution(x.to("meta")).final.is_meta
    assert waits.count == 0
    tolerant = deq.with_settings(solver=replace(deq.solver, tol=1e-3))
    with torch.no_grad(), Waits() as waits:
        tolerant.solve(x)
    assert waits.count > 0


@pytest.mark.parametrize(("solver", "monotone"), [(Picard(tol=0.0), True), (Broyden(tol=0.0), False)], ids=repr)
def test_a_step_allocates_its_increment_the_next_state_and_what_f_does(solver: Solver, monotone: bool) -> None:
    torch.manual_seed(0)
    slope, shift = torch.linspace(-0.99, 0.99, 1 << 16), torch.randn(2, 1 << 16)

    def allocated(steps: int) -> int:
        with torch.no_grad(), Allocations() as found:
            replace(solver, max_steps=steps).solve(lambda z: shift.addcmul(z, slope), torch.zeros_like(shift))
        return found.bytes

    states = 3.05 if monotone else 4  # where a residual rises, z* is put together from two states
    assert allocated(40) - allocated(10) <= 30 * states * shift.nbytes


def test_memory_of_a_solve_grows_by_one_state_per_step(deq: MDEQ, x: Tensor) -> None:
    def peak(steps: int) -> int:
        longer = deq.with_settings(solver=replace(deq.solver, max_steps=steps))
        with torch.no_grad():
            return peak_bytes(lambda: longer.solution(x).trajectory)

    state = deq.solve(x).initial.nbytes
    assert peak(48) - peak(16) < 1.2 * 32 * state


def test_memory_through_the_solver_with_checkpoints_grows_by_the_states_alone(deq: MDEQ, x: Tensor) -> None:
    def peak(gradient: Gradient, steps: int) -> int:
        longer = deq.with_settings(solver=replace(deq.solver, max_steps=steps))
        with evaluating(longer):
            return peak_bytes(lambda: gradient.input_gradient(longer, x, loss))

    state, true, phantom = deq.solve(x).initial.nbytes, ThroughSolver(checkpoint=True), Phantom(5, 0.5)
    assert peak(true, 8) <= peak(phantom, 8) + 9 * state
    assert peak(true, 48) - peak(true, 16) < 3 * 32 * state


def test_the_published_way_of_a_gradient_is_the_same_gradient(deq: MDEQ, x: Tensor) -> None:
    gradients = [SimultaneousAdjoint(2), UnrolledIntermediate(2, 3, 0.5), Phantom(3)]
    gradients += [Ensemble(SimultaneousAdjoint()), Ensemble(UnrolledIntermediate(steps=1))]
    with evaluating(deq):
        for gradient in gradients:
            found = Separate(gradient).input_gradient(deq, x, loss)
            torch.testing.assert_close(found, gradient.input_gradient(deq, x, loss))


def test_the_grid_in_one_go_takes_far_fewer_evaluations(deq: MDEQ, x: Tensor) -> None:
    columns = Estimators(steps=(1, 5), dampings=(1.0,)).candidates(deq.last_state)
    candidates = [column.gradients for column in columns]
    totals = {}
    with evaluating(deq):
        for name, way in WAYS.items():
            with counted(deq) as found:
                for column in candidates:
                    way.step(deq, column, x, torch.zeros(IMAGES, dtype=torch.long))()
            totals[name] = len(way.judges) * found.total
    assert totals["separately"] > 2.5 * totals["together"]
