"""What monotone DEQs promise: one equilibrium, whichever splitting looks for it, that moves by 1 / m at most."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dense import circular_matrix
from robustdeq.base.errors import InputError
from robustdeq.deq.monotone import Contracting, ForwardBackward, Given, Monotone, Operator, PeacemanRachford, Splitting
from robustdeq.deq.monotone.kernels import apply, composed, symbol, times, transposed

Make = Callable[[int, int, tuple[int, int], float], Operator]
SIZES = ((7, 1, (1, 1)), (3, 3, (4, 5)), (2, 5, (3, 6)), (2, 3, (1, 2)))

shaped = pytest.mark.parametrize(("channels", "side", "sides"), SIZES)
of_each_kind = pytest.mark.parametrize("make", [Monotone, Contracting])


def operator(make: Make, channels: int, side: int, sides: tuple[int, int], m: float = 0.3) -> Operator:
    torch.manual_seed(channels)
    made = make(channels, side, sides, m).double()
    with torch.no_grad():
        for weight in made.parameters():
            weight.mul_(4)
    return made


def random(channels: int, sides: tuple[int, int], batch: int = 3) -> Tensor:
    return torch.randn(batch, channels, *sides, dtype=torch.float64)


def equilibrium(cell: Splitting, u: Tensor, steps: int = 4000) -> Tensor:
    """The state that plain iteration of a splitting ends at."""
    bound, state = cell.bind(u), torch.zeros_like(u)
    with torch.no_grad():
        for _ in range(steps):
            state = bound(state)
        return cell.reading()(state)


@shaped
def test_kernels_act_as_the_matrices_of_circular_convolutions(channels: int, side: int, sides: tuple[int, int]) -> None:
    torch.manual_seed(0)
    kernel, other = torch.randn(2, channels, channels, side, side, dtype=torch.float64)
    matrix, z = circular_matrix(kernel, sides), random(channels, sides)
    torch.testing.assert_close(apply(kernel, z).flatten(1), z.flatten(1) @ matrix.T)
    torch.testing.assert_close(circular_matrix(transposed(kernel), sides), matrix.T)
    torch.testing.assert_close(circular_matrix(composed(kernel, other), sides), matrix @ circular_matrix(other, sides))
    torch.testing.assert_close(times(symbol(kernel, sides), z), apply(kernel, z))


@shaped
def test_monotone_operator_is_the_published_parametrisation(channels: int, side: int, sides: tuple[int, int]) -> None:
    found = operator(Monotone, channels, side, sides)
    assert isinstance(found, Monotone)
    a, b = circular_matrix(found.a, sides), circular_matrix(found.b, sides)
    identity = torch.eye(len(a), dtype=torch.float64)
    torch.testing.assert_close(circular_matrix(found.kernel(), sides), 0.7 * identity - a.T @ a + b - b.T)


@of_each_kind
@shaped
def test_operator_is_strongly_monotone_by_its_modulus(
    make: Make, channels: int, side: int, sides: tuple[int, int]
) -> None:
    found = operator(make, channels, side, sides)
    weight = circular_matrix(found.kernel(), sides).detach()
    off = weight - weight.diagonal().diag()
    by = {
        "L2": 1 - torch.linalg.eigvalsh((weight + weight.T) / 2).max(),
        "Linf": (1 - weight.diagonal() - off.abs().sum(dim=1)).min(),
    }
    assert by[found.norm.name] >= found.modulus() - 1e-12


@of_each_kind
@shaped
def test_splittings_find_the_same_equilibrium_of_which_the_residual_is_zero(
    make: Make, channels: int, side: int, sides: tuple[int, int]
) -> None:
    border = min(side // 2, (min(sides) - 1) // 2)
    found, u = operator(make, channels, side, sides), random(channels, sides)
    forward, reflected = ForwardBackward(found, border), PeacemanRachford(found, border)
    z = equilibrium(forward, u)
    torch.testing.assert_close(equilibrium(reflected, u), z)
    torch.testing.assert_close(forward.positive(apply(found.kernel(), z) + u), z)
    assert (z >= 0).all()
    assert border == 0 or (z[:, :, 0] == 0).all()


@of_each_kind
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), m=st.sampled_from([0.1, 0.5, 2.0]))
def test_equilibria_are_no_further_apart_than_injections_over_m(make: Make, seed: int, m: float) -> None:
    torch.manual_seed(seed)
    found = make(4, 3, (3, 3), m).double()
    cell, u = ForwardBackward(found, 1), random(4, (3, 3))
    other = u + 0.1 * torch.randn_like(u)
    size = found.norm.size
    apart = size(equilibrium(cell, u, 500) - equilibrium(cell, other, 500))
    assert (apart <= size(u - other) / m + 1e-6).all()


@of_each_kind
def test_a_step_of_forward_backward_splitting_brings_states_nearer(make: Make) -> None:
    found = operator(make, 3, 3, (4, 4))
    bound = ForwardBackward(found).bind(random(3, (4, 4)))
    one, other = random(3, (4, 4)), random(3, (4, 4))
    assert (found.norm.size(bound(one) - bound(other)) < found.norm.size(one - other)).all()


@of_each_kind
def test_equilibrium_is_differentiated_in_the_weights(make: Make) -> None:
    found = operator(make, 2, 1, (1, 1))
    cell, u = PeacemanRachford(found), random(2, (1, 1), batch=1)

    def loss() -> Tensor:
        bound, state = cell.bind(u), torch.zeros_like(u)
        for _ in range(300):
            state = bound(state)
        return cell.reading()(state).square().sum()

    weight = next(found.parameters())
    (gradient,) = torch.autograd.grad(loss(), weight)
    with torch.no_grad():
        for i in range(2):
            ends = []
            for shift in (1e-6, -2e-6):
                weight[i, 0] += shift
                ends.append(loss())
            weight[i, 0] += 1e-6
            torch.testing.assert_close((ends[0] - ends[1]) / 2e-6, gradient[i, 0].sum(), rtol=1e-4, atol=1e-7)


def test_modulus_that_a_given_weight_does_not_have_is_refused() -> None:
    weight = torch.diag(torch.tensor([0.5, 0.8], dtype=torch.float64))
    assert 0.2 - 1e-8 < Given(weight, m=0.2).modulus() <= 0.2
    with pytest.raises(InputError, match=r"strongly monotone by 0\.2 alone, and m = 0\.5"):
        Given(weight, m=0.5).modulus()
    with pytest.raises(InputError, match="is not strongly monotone, and m"):
        Given(weight + torch.eye(2), m=0.1).modulus()


@pytest.mark.parametrize("m", [0.0, -1.0, float("nan"), float("inf")])
def test_modulus_must_be_positive(m: float) -> None:
    with pytest.raises(InputError, match="positive modulus"):
        Monotone(2, 1, (1, 1), m)


def test_weights_that_are_not_finite_are_refused() -> None:
    found = Monotone(2, 1, (1, 1), 1.0)
    with torch.no_grad():
        found.a[0, 0] = torch.inf
    with pytest.raises(InputError, match="not finite"):
        found.modulus()
