"""A state of several tensors is the model whose state is one, however it is read or differentiated."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils._pytree import tree_flatten

from cells import IMAGE, TAILS, VECTOR, cross_entropy, images, make_deq
from robustdeq.base.errors import InputError
from robustdeq.deq.cell import BoundCell, Execution
from robustdeq.deq.defenses import Defense, EarlyState, EnsembleState, FinalState, defended_logits, state_logits
from robustdeq.deq.entropy import EntropyReduced, EntropyReduction
from robustdeq.deq.gradients.base import Family
from robustdeq.deq.model import DEQ, Gradient, StateGradient
from robustdeq.deq.structure import Structure
from robustdeq.gradients import (
    SHINE,
    Ensemble,
    Exact,
    JacobianFree,
    Neumann,
    Phantom,
    SimultaneousAdjoint,
    Surrogate,
    ThroughSolver,
    UnrolledIntermediate,
)
from robustdeq.solvers import Anderson, Broyden, Picard, Solver
from robustdeq.training.inner import WarmStarted
from robustdeq.training.regularizers import FixedPointCorrection, jacobian_penalty
from robustdeq.training.spectrum import lipschitz_constant, spectral_radius

pytestmark = pytest.mark.usefixtures("float64")
Y = torch.arange(3)
SOLVERS: dict[str, Solver] = {
    "broyden": Broyden(max_steps=5, tol=0),
    "broyden-freezing": Broyden(max_steps=6, tol=5e-2),
    "anderson": Anderson(max_steps=5, tol=1e-2, history=3),
    "picard": Picard(max_steps=6, tol=0, damping=0.7),
}
FAMILIES: list[Family] = [SimultaneousAdjoint(), UnrolledIntermediate(steps=2, damping=0.7)]
STATE_GRADIENTS: list[StateGradient] = [
    Exact(5, 0),
    Phantom(3, 0.5),
    Neumann(4, 0.8),
    SHINE(),
    SHINE(state=2),
    JacobianFree(),
    UnrolledIntermediate(3, 2, from_image=True),
    ThroughSolver(),
    ThroughSolver(EarlyState(2)),
    ThroughSolver(EnsembleState(), checkpoint=True),
]
GRADIENTS: list[Gradient] = [
    *STATE_GRADIENTS,
    *FAMILIES,
    SimultaneousAdjoint(state=2),
    *(Ensemble(family) for family in FAMILIES),
]
DEFENSES: list[Defense] = [FinalState(), EarlyState(2), EnsembleState()]


def split(z: Tensor) -> dict[str, Any]:
    return {"hidden": z[:, :4].reshape(-1, 2, 2), "memory": (z[:, 4], [z[:, 5:]])}


def join(parts: dict[str, Any]) -> Tensor:
    scalar, (rest,) = parts["memory"]
    return torch.cat([parts["hidden"].flatten(1), scalar[:, None], rest], dim=1)


class Function(nn.Module):
    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


class Structured(nn.Module):
    """A cell on vectors as one on dicts, whose images have their keys in another order."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, z: dict[str, Any], u: dict[str, Any]) -> dict[str, Any]:
        return dict(reversed(split(self.cell(join(z), join(u))).items()))


class StructuredStart(Structured):
    def initial_state(self, u: dict[str, Any]) -> dict[str, Any]:
        return split(self.cell.initial_state(join(u)))


class StructuredBound(Structured):
    def bind(self, u: dict[str, Any]) -> BoundCell:
        bound = self.cell.bind(join(u))
        return BoundCell(lambda z: split(bound.function(join(z))), bound.tensors)


WRAPPERS = {"contractive": Structured, "expansive": Structured, "own-start": StructuredStart, "bound": StructuredBound}
cells = pytest.mark.parametrize("cell", WRAPPERS)
solvers = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)


def structured(flat: DEQ, wrapper: type[Structured] = Structured) -> DEQ:
    """The same weights, with an injection, a state and a head of nested tensors."""
    injection = nn.Sequential(flat.injection, Function(split))
    head = nn.Sequential(Function(join), flat.head)
    return DEQ(injection, wrapper(flat.cell), head, flat.solver, flat.tail, flat.gradient)


def both(cell: str = "contractive", solver: Solver | None = None, tail: str = "step") -> tuple[DEQ, DEQ]:
    flat = make_deq(cell, solver, TAILS[tail])
    return flat, structured(flat, WRAPPERS[cell])


def assert_same(found: Any, expected: Any) -> None:
    assert_close(found, expected, rtol=1e-7, atol=1e-9)


def has(gradient: Gradient, deq: DEQ) -> bool:
    try:
        gradient.check(deq)
    except InputError:
        return False
    return True


@cells
@solvers
@pytest.mark.parametrize("tail", TAILS)
def test_solves_and_reads_the_same(cell: str, solver: Solver, tail: str) -> None:
    flat, nested = both(cell, solver, tail)
    x = images()
    one, other = flat.solve(x), nested.solve(x)
    assert_same(other.states, one.states)
    assert_same(other.final, one.final)
    assert_same(nested(x), flat(x))
    assert_same(defended_logits(nested, x, DEFENSES), defended_logits(flat, x, DEFENSES))
    assert_same(state_logits(nested, x), state_logits(flat, x))


@pytest.mark.parametrize("gradient", GRADIENTS, ids=repr)
@cells
@pytest.mark.parametrize("solver", ["broyden-freezing", "anderson"])
def test_every_gradient_is_the_same(gradient: Gradient, cell: str, solver: str) -> None:
    flat, nested = both(cell, SOLVERS[solver], "damped-from-image")
    x = images().requires_grad_()
    assert has(gradient, flat) == has(gradient, nested)
    if not has(gradient, flat):
        return
    assert_same(gradient.input_gradient(nested, x, cross_entropy), gradient.input_gradient(flat, x, cross_entropy))
    logits = [Surrogate(deq, gradient)(x) for deq in (nested, flat)]
    assert_same(*logits)
    assert_same(*(torch.autograd.grad(cross_entropy(found).sum(), x) for found in logits))


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_all_members_of_a_family_are_the_same(family: Family) -> None:
    flat, nested = both("own-start")
    found, expected = (family.input_gradients(deq, images(), cross_entropy) for deq in (nested, flat))
    assert_same(found, expected)


@pytest.mark.parametrize("gradient", [None, *STATE_GRADIENTS], ids=repr)
@cells
def test_trains_the_same(gradient: StateGradient | None, cell: str) -> None:
    found = []
    for deq in both(cell, SOLVERS["broyden-freezing"]):
        deq.zero_grad()
        deq.gradient = gradient
        cross_entropy(deq(images())).sum().backward()
        found.append([parameter.grad for parameter in deq.parameters()])
    assert_same(*found)


@pytest.mark.parametrize("backward", ["through", "straight-through"])
def test_entropy_is_reduced_the_same(backward: str) -> None:
    reduction, x = EntropyReduction(2, 2, 0.02, 0.05, bounds=(-9.0, 9.0)), images().requires_grad_()
    logits = [EntropyReduced(deq, reduction, backward)(x) for deq in both()]
    assert_same(*logits)
    assert_same(*(torch.autograd.grad(cross_entropy(found).sum(), x) for found in logits))


@pytest.mark.parametrize(
    "measure",
    [
        lambda deq: jacobian_penalty(deq.solution(images()), 2, torch.Generator().manual_seed(0)),
        lambda deq: spectral_radius(deq.solution(images()), 5, torch.Generator().manual_seed(0)),
        lambda deq: lipschitz_constant(deq.solution(images()), 5, torch.Generator().manual_seed(0)),
        lambda deq: FixedPointCorrection(1.0).penalty(deq, deq.solution(images()), Y),
    ],
    ids=["penalty", "radius", "lipschitz", "correction"],
)
def test_is_watched_and_regularised_the_same(measure: Callable[[DEQ], Tensor]) -> None:
    flat, nested = both()
    assert_same(measure(nested), measure(flat))


def test_goes_on_from_a_state_the_same() -> None:
    warm = [WarmStarted(deq, Phantom(2, 0.5), steps=2) for deq in both()]
    for scale in (1.0, 1.1):
        assert_same(*(surrogate.input_gradient(scale * images(), cross_entropy) for surrogate in warm))


@pytest.mark.parametrize("gradient", [Phantom(2, 0.5), ThroughSolver()], ids=repr)
@pytest.mark.parametrize(
    "execution", [Execution(compiled=True), Execution("bfloat16"), Execution("bfloat16", compiled=True)], ids=repr
)
def test_compiled_and_in_bfloat16_it_is_the_same(
    gradient: StateGradient, execution: Execution, monkeypatch: pytest.MonkeyPatch, unchecked: None
) -> None:
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    flat, nested = (deq.float() for deq in both("bound"))
    x, counts = images().float(), torch._dynamo.utils.counters["stats"]
    before = counts["unique_graphs"]
    plain = gradient.input_gradient(nested, x, cross_entropy)
    flat.execution = nested.execution = execution
    expected = gradient.input_gradient(flat, x, cross_entropy)
    assert_close(gradient.input_gradient(nested, x, cross_entropy), expected, rtol=1e-3, atol=1e-4)
    assert not torch.equal(plain, expected) or execution.precision == "full"
    graphs = counts["unique_graphs"]
    assert (graphs > before) == execution.compiled
    gradient.input_gradient(nested, x.flip(0), cross_entropy)
    assert counts["unique_graphs"] == graphs


class Twice(nn.Module):
    """u, sin u and u again, each of which the cell reads."""

    def __init__(self, injection: nn.Module) -> None:
        super().__init__()
        self.injection = injection

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        u = self.injection(x)
        return u, u.sin(), u


class SumCell(nn.Module):
    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def initial_state(self, u: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        return u[0]

    def forward(self, z: Tensor, u: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        return self.cell(z, 0.5 * u[0] + u[1] + 0.3 * u[2])


class OwnSumCell(SumCell):
    def initial_state(self, u: Tensor) -> Tensor:
        return u

    def forward(self, z: Tensor, u: Tensor) -> Tensor:
        return self.cell(z, 0.8 * u + u.sin())


@pytest.mark.parametrize("gradient", GRADIENTS, ids=repr)
def test_parts_of_an_injection_may_depend_on_each_other_and_be_the_initial_state(gradient: Gradient) -> None:
    flat = make_deq()
    one = DEQ(flat.injection, OwnSumCell(flat.cell), flat.head, flat.solver)
    three = DEQ(Twice(flat.injection), SumCell(flat.cell), flat.head, flat.solver)
    found, expected = (gradient.input_gradient(deq, images(), cross_entropy) for deq in (three, one))
    assert_same(found, expected)


def test_an_initial_state_that_is_the_injection_is_differentiated_once() -> None:
    flat = make_deq()
    deq = DEQ(flat.injection, OwnSumCell(flat.cell), flat.head, Broyden(max_steps=3, tol=0))
    x, weight = images(), flat.injection[1].weight
    deq.gradient = ThroughSolver()
    found = ThroughSolver().input_gradient(deq, x, cross_entropy)
    h = 1e-6
    for i in range(x[0].numel()):
        step = torch.zeros_like(x).flatten(1)
        step[:, i] = h
        up, down = (cross_entropy(deq(x + sign * step.view_as(x)).detach()) for sign in (1, -1))
        assert_close(found.flatten(1)[:, i], (up - down) / (2 * h), rtol=1e-6, atol=1e-7)
    cross_entropy(deq(x)).sum().backward()
    assert weight.grad is not None


TREES = st.recursive(
    st.lists(st.integers(0, 3), max_size=2).map(tuple),
    lambda parts: st.one_of(
        st.lists(parts, min_size=1, max_size=3),
        st.lists(parts, min_size=1, max_size=3).map(tuple),
        st.dictionaries(st.sampled_from("abc"), parts, min_size=1),
    ),
    max_leaves=5,
)


def drawn(shapes: Any, batch: int) -> Any:
    if isinstance(shapes, dict):
        return {key: drawn(part, batch) for key, part in shapes.items()}
    if isinstance(shapes, list) or any(not isinstance(part, int) for part in shapes):
        return type(shapes)(drawn(part, batch) for part in shapes)
    return torch.randn(batch, *shapes)


@settings(deadline=None)
@given(TREES, st.integers(1, 3))
def test_what_is_packed_is_unpacked(shapes: Any, batch: int) -> None:
    tree = drawn(shapes, batch)
    structure = Structure.of("state", tree)
    packed = structure.pack(tree)
    leaves, spec = tree_flatten(tree)
    found, found_spec = tree_flatten(structure.unpack(packed))
    assert found_spec == spec
    assert len(packed) == batch
    assert packed.numel() == sum(leaf.numel() for leaf in leaves)
    assert_close(found, leaves, rtol=0, atol=0)


class Started(nn.Module):
    def __init__(self, start: Callable[[Tensor], Any], function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.start, self.function = start, function

    def initial_state(self, u: Tensor) -> Any:
        return self.start(u)

    def forward(self, z: Any, u: Tensor) -> Any:
        return self.function(z)


PAIR = "((3, 7), (3, 7))"
FAULTS: dict[str, tuple[Callable[[Tensor], Any], Callable[[Any], Any], str]] = {
    "dtypes": (
        lambda u: (u, u.float()),
        lambda z: z,
        "the state has dtype torch.float32 and torch.float64; give all its tensors one floating-point dtype.",
    ),
    "integers": (lambda u: (u.long(), u.long()), lambda z: z, "the state has dtype torch.int64; give all its tensors"),
    "batches": (
        lambda u: [u, u[:2]],
        lambda z: z,
        "the state has tensors of 2 and 3 samples; give each of them the batch first.",
    ),
    "numbers": (lambda u: (u, torch.zeros(())), lambda z: z, "the state has tensors of 0 and 3 samples"),
    "objects": (lambda u: (u, None), lambda z: z, "the state holds a NoneType; make it a tensor, or tensors in tuples"),
    "nothing": (lambda u: (), lambda z: z, "the state holds no tensor; make it a tensor"),
    "more": (
        lambda u: (u, u),
        lambda z: (*z, z[0]),
        f"the cell maps a state of shape {PAIR} to ((3, 7), (3, 7), (3, 7))",
    ),
    "one": (
        lambda u: (u, u),
        lambda z: z[0],
        f"the cell maps a state of shape {PAIR} to (3, 7); make it return a state",
    ),
    "a list": (lambda u: (u, u), lambda z: [*z], f"the cell maps a state of shape {PAIR} to [(3, 7), (3, 7)]; make it"),
    "wider": (lambda u: (u, u), lambda z: (z[0], torch.cat(z, 1)), f"shape {PAIR} to ((3, 7), (3, 14)); make it"),
    "keys": (lambda u: {"a": u}, lambda z: {"b": z["a"]}, "maps a state of shape {'a': (3, 7)} to {'b': (3, 7)}; make"),
    "None": (lambda u: u, lambda z: None, "the cell maps a state of shape (3, 7) to NoneType; make it return a state"),
    "a pair": (
        lambda u: u,
        lambda z: (z, z),
        f"the cell maps a state of shape (3, 7) to {PAIR}; make it return a state",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("use", [DEQ.forward, DEQ.solve], ids=["forward", "solve"])
def test_a_state_that_cannot_be_solved_for_is_one_sentence(fault: str, use: Callable[[DEQ, Tensor], object]) -> None:
    start, function, said = FAULTS[fault]
    deq = make_deq()
    deq.cell = Started(start, function)
    with pytest.raises(InputError) as refused:
        use(deq, images())
    assert said in str(refused.value)


def test_an_injection_of_several_numbers_of_samples_is_one_sentence() -> None:
    deq = make_deq()
    deq.injection = Function(lambda x: (x, x[:1]))
    with pytest.raises(InputError, match="the injection has tensors of 1 and 3 samples"):
        deq(torch.zeros(3, *IMAGE))


def test_states_are_flat_where_they_are_read_and_nested_where_they_are_used() -> None:
    flat, nested = both()
    x = images()
    assert nested.solve(x).shape == flat.solve(x).shape == (3, VECTOR)
    _, cell, start = nested.bind(x)
    parts = cell.structure.unpack(start)
    assert parts["hidden"].shape == (3, 2, 2)
    assert parts["hidden"].data_ptr() == start.data_ptr()
