"""What every solver shares: the trajectory tells how each sample fared, and the settings are checked."""

import gc
import math
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

import dense
from cells import images, make_deq, with_norm
from robustdeq.base.errors import InputError
from robustdeq.solvers import Anderson, Broyden, Picard
from robustdeq.solvers.base import Iteration

pytestmark = pytest.mark.usefixtures("float64")
SOLVERS: dict[str, Any] = {
    "broyden": Broyden,
    "broyden-short-steps": lambda **settings: Broyden(step_size=0.7, **settings),
    "broyden-limited": lambda **settings: Broyden(limit=3, **settings),
    "broyden-line-search": lambda **settings: Broyden(line_search=3, **settings),
    "anderson": lambda **settings: Anderson(history=3, **settings),
    "picard": Picard,
    "picard-damped": lambda **settings: Picard(damping=0.6, **settings),
}
solvers = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
MAX_STEPS = 9


class Mixture:
    """f of a batch whose samples behave as their kinds say."""

    def __init__(self, kinds: list[str]) -> None:
        generator = torch.Generator().manual_seed(1)
        self.kinds = kinds
        self.weight = with_norm(torch.randn(5, 5, generator=generator), 0.7)
        self.shift = torch.randn(5, generator=generator)

    def one(self, kind: str, z: Tensor) -> Tensor:
        usual = torch.tanh(self.weight @ z + self.shift)
        far = z.abs().amax() > 0.2
        match kind:
            case "constant":
                return self.shift
            case "inf" | "nan":
                return usual.masked_fill(far, float(kind))
            case "nan-at-once":
                return torch.full_like(z, torch.nan)
            case "cubic":
                return 1 + 30 * z**3 + z
        return usual

    def __call__(self, z: Tensor) -> Tensor:
        return torch.stack([self.one(kind, sample) for kind, sample in zip(self.kinds, z, strict=True)])


@solvers
@pytest.mark.parametrize("tol", [0.0, 1e-3])
def test_inverse_of_a_sample_does_not_depend_on_its_batch(solver: Any, tol: float) -> None:
    method = solver(max_steps=MAX_STEPS, tol=tol)
    if isinstance(method, Anderson):
        method = Broyden(max_steps=MAX_STEPS, tol=tol, step_size=1.3, line_search=1)
    kinds = ["tanh", "constant", "cubic", "nan", "tanh"]
    batch = method.solve(Mixture(kinds), torch.zeros(len(kinds), 5))
    v = torch.randn(1, 5)
    for i in (0, 1, 4):
        alone = method.solve(Mixture([kinds[i]]), torch.zeros(1, 5))
        for n in range(MAX_STEPS + 1):
            product = batch.inverse(n).rmatvec(v.expand(len(kinds), -1))[i]
            assert_close(product, alone.inverse(n).rmatvec(v)[0], rtol=0, atol=1e-10)


@solvers
def test_flags_tell_how_each_sample_fared(solver: Any) -> None:
    kinds = ["constant", "inf", "nan", "nan-at-once", "tanh"]
    t = solver(max_steps=60, tol=1e-9).solve(Mixture(kinds), torch.zeros(len(kinds), 5))
    assert t.converged.tolist() == [True, False, False, False, True]
    assert t.diverged.tolist() == [False, True, True, True, False]
    assert t.steps[3] == 0
    assert t.steps[1] == t.steps[2]
    assert 0 < t.steps[2] < t.steps[4] < 60
    assert t.residuals[-1, 4] < 1e-9
    assert (t.residuals[: int(t.steps[4]) - 1, 4] >= 1e-9).all()


def test_residual_beyond_the_bound_is_a_divergence() -> None:
    rates = torch.tensor([[10.0], [2.0]])
    t = Picard(max_steps=8, tol=0, divergence=1e3).solve(lambda z: rates * z, torch.ones(2, 1))
    assert t.diverged.tolist() == [True, False]
    assert t.steps.tolist() == [4, 8]
    assert_close(t.state(8), torch.tensor([[1e4], [256.0]]))


@solvers
def test_without_a_bound_only_what_is_not_finite_diverges(solver: Any) -> None:
    kinds = ["usual", "constant", "inf", "nan", "nan-at-once"]
    f = Mixture(kinds)
    z0 = torch.zeros(5, 5)
    z0[1] = f.shift
    t = solver(max_steps=MAX_STEPS, tol=0.0, divergence=math.inf).solve(f, z0)
    assert t.diverged.tolist() == [False, False, True, True, True]
    assert_close(t.solution[1], f.shift)


@solvers
@pytest.mark.parametrize("tol", [0.0, 1e-2])
def test_states_number_max_steps_and_a_frozen_sample_repeats_its_last(solver: Any, tol: float) -> None:
    kinds = ["tanh", "nan", "constant"]
    t = solver(max_steps=30, tol=tol).solve(Mixture(kinds), torch.zeros(3, 5))
    assert t.states.shape == (30, 3, 5)
    assert t.residuals.shape == (30, 3)
    for i, steps in enumerate(t.steps.tolist()):
        last = t.states[steps - 1, i]
        assert_close(t.states[steps - 1 :, i], last.expand(31 - steps, 5), rtol=0, atol=0)
        assert [bool(t.visited(n)[i]) for n in range(1, 32)] == [n <= steps or n == 31 for n in range(1, 32)]
    assert t.steps[1] < 30


@solvers
def test_solve_ends_once_every_sample_is_frozen(solver: Any) -> None:
    mixture, calls = Mixture(["constant", "nan"]), []

    def counted(z: Tensor) -> Tensor:
        calls.append(z)
        return mixture(z)

    t = solver(max_steps=500, tol=1e-3).solve(counted, torch.zeros(2, 5))
    assert len(calls) < 60
    assert t.states.shape == (500, 2, 5)


@solvers
@pytest.mark.parametrize("stop", ["rel", "abs"])
def test_residuals_are_relative_and_the_best_has_the_lowest_under_the_rule(solver: Any, stop: str) -> None:
    deq, x = make_deq("expansive"), images()
    function, initial = dense.cell_of(deq, x), dense.start_of(deq, x)
    t = solver(max_steps=MAX_STEPS, tol=0, stop=stop).solve(function, initial)
    relative = torch.stack([dense.relative_residual(function, z) for z in t.states])
    assert_close(t.residuals, relative)
    ranked = relative if stop == "rel" else torch.stack([(function(z) - z).norm(dim=1) for z in t.states])
    best = ranked.argmin(dim=0)
    assert (t.best_index == best + 1).all()
    assert_close(t.solution, t.states[best, torch.arange(len(best))])
    assert_close(t.best_value, function(t.solution))
    assert_close(t.final, t.solution)


@solvers
def test_last_is_the_last_visited_state(solver: Any) -> None:
    function, initial = Mixture(["tanh", "constant", "nan"]), torch.zeros(3, 5)
    t = solver(max_steps=MAX_STEPS, tol=1e-4, result="last").solve(function, initial)
    assert (t.best_index == t.steps).all()
    assert_close(t.solution, t.states[-1])
    assert_close(t.best_value, function(t.solution), equal_nan=True)


def test_tolerance_refers_to_the_residual_of_the_rule() -> None:
    def shrinking(z: Tensor) -> Tensor:
        return 100 + (z - 100) / 2

    absolute = Picard(max_steps=40, tol=0.3, stop="abs").solve(shrinking, torch.zeros(1, 1))
    relative = Picard(max_steps=40, tol=0.3, stop="rel").solve(shrinking, torch.zeros(1, 1))
    # after n steps the residual is 50 / 2^n, and f is 100 - 50 / 2^n
    assert absolute.steps.item() == 8
    assert relative.steps.item() == 2


@solvers
def test_state_of_any_shape_is_solved_flat(solver: Any) -> None:
    initial = torch.randn(2, 3, 2, 2)

    def function(z: Tensor) -> Tensor:
        return torch.cos(z.roll(1, dims=1))

    method = solver(max_steps=5, tol=0)
    t = method.solve(function, initial)
    flat = method.solve(lambda z: function(z.view(initial.shape)).flatten(1), initial.flatten(1))
    assert t.state(5).shape == initial.shape
    assert_close(t.states, flat.states, rtol=0, atol=0)
    assert_close(t.state(0), initial)


@solvers
def test_fixed_number_of_steps_never_waits_for_the_device(solver: Any) -> None:
    t = solver(max_steps=MAX_STEPS, tol=0).solve(torch.cos, torch.zeros(3, 4, device="meta"))
    assert t.states.shape == (MAX_STEPS, 3, 4)
    assert t.solution.device.type == "meta"


@solvers
def test_float32_solve_stays_float32(solver: Any) -> None:
    t = solver(max_steps=5, tol=1e-3).solve(torch.cos, torch.zeros(2, 3, dtype=torch.float32))
    assert t.states.dtype == t.residuals.dtype == torch.float32


BAD_SETTINGS: list[tuple[Any, dict[str, Any], str]] = [
    (Broyden, {"max_steps": 0}, "max_steps is 0"),
    (Picard, {"tol": -1e-3}, "tol is -0.001"),
    (Picard, {"tol": float("nan")}, "tol is nan"),
    (Broyden, {"stop": "relative"}, "stop is 'relative'; choose one of 'rel', 'abs'"),
    (Broyden, {"result": "first"}, "result is 'first'; choose one of 'best', 'last'"),
    (Broyden, {"divergence": 0.0}, "divergence is 0"),
    (Broyden, {"step_size": 0.0}, "step_size is 0"),
    (Broyden, {"line_search": -1}, "line_search is -1"),
    (Broyden, {"limit": 0}, "limit is 0"),
    (Anderson, {"history": 0}, "history is 0"),
    (Anderson, {"mixing": 0.0}, "mixing is 0"),
    (Anderson, {"ridge": -1.0}, "ridge is -1"),
    (Picard, {"damping": 0.0}, "damping is 0"),
    (Picard, {"damping": 1.5}, "damping is 1.5"),
]


@pytest.mark.parametrize(("solver", "settings", "message"), BAD_SETTINGS)
def test_setting_out_of_range_is_named(solver: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        solver(**settings)


@solvers
def test_batch_without_samples_is_refused(solver: Any) -> None:
    with pytest.raises(InputError, match="at least one sample"):
        solver().solve(torch.cos, torch.zeros(0, 3))


@solvers
def test_function_that_changes_the_shape_is_refused(solver: Any) -> None:
    with pytest.raises(InputError, match=r"the cell maps a state of shape \(2, 3\) to \(2, 6\)"):
        solver().solve(lambda z: torch.cat([z, z], dim=1), torch.zeros(2, 3))


@solvers
@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 1)])
def test_function_that_changes_its_state_is_refused(solver: Any, shape: tuple[int, ...]) -> None:
    for function in (lambda z: z.mul_(0.5).add_(1), lambda z: (z + 1, z.zero_())[0]):
        with pytest.raises(InputError, match="the cell changes the state it is given"):
            solver(max_steps=3).solve(function, torch.ones(shape))
    with torch.inference_mode():
        found = solver(max_steps=40, tol=1e-6).solve(lambda z: z / 2 + 1, torch.ones(shape)).final
        assert_close(found, torch.full(shape, 2.0), rtol=1e-5, atol=0)


@pytest.mark.parametrize("n", [-1, 7])
def test_state_beyond_the_final_one_is_refused(n: int) -> None:
    trajectory = Broyden(max_steps=5).solve(torch.cos, torch.zeros(2, 3))
    with pytest.raises(InputError, match=f"state {n} does not exist; this trajectory has states 0 to 6"):
        trajectory.state(n)


@pytest.mark.parametrize("n", [-1, 6])
def test_inverse_beyond_the_last_step_is_refused(n: int) -> None:
    trajectory = Broyden(max_steps=5).solve(torch.cos, torch.zeros(2, 3))
    with pytest.raises(InputError, match=f"B_{n} does not exist; this trajectory has B_0 to B_5"):
        trajectory.inverse(n)


class Operations(TorchDispatchMode):
    """Counts what torch is asked for."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_step_of_broyden_makes_few_operations() -> None:
    """Where f costs nothing they are the price: a step made 135 of them once. torch 2.6 takes some apart."""
    weight = with_norm(torch.randn(40, 40), 0.9)

    def operations(steps: int) -> int:
        with torch.no_grad(), Operations() as counted:
            Broyden(max_steps=steps, tol=0).solve(lambda z: z @ weight + 1, torch.zeros(6, 40))
        return counted.count

    f, most = 2, 60 if torch.__version__ >= (2, 13) else 66
    assert (operations(12) - operations(4)) / 8 - f <= most


@solvers
def test_nothing_of_a_solve_waits_for_the_garbage_collector(solver: Any) -> None:
    weight = with_norm(torch.randn(5, 5), 0.7)
    gc.collect()
    gc.disable()
    try:
        run = Iteration(solver(max_steps=3, tol=0.0), lambda z: torch.tanh(z @ weight), torch.zeros(2, 5), True, True)
        for iterate in run:
            iterate.residual_norm  # noqa: B018
        alive = [weakref.ref(run.memory), weakref.ref(run), weakref.ref(iterate)]
        del run, iterate
        assert [reference() for reference in alive] == [None] * 3
    finally:
        gc.enable()
