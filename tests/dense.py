"""Slow, direct references: dense matrices, explicit loops, finite differences."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from robustdeq.deq.model import DEQ

Function = Callable[[Tensor], Tensor]


def dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1)


def apply(matrices: Tensor, vectors: Tensor) -> Tensor:
    """M v per sample."""
    return torch.einsum("bij,bj->bi", matrices, vectors)


def jacobian(function: Function, at: Tensor) -> Tensor:
    """The Jacobian of each sample, (B, out, in), for a function that treats samples independently."""
    full = torch.autograd.functional.jacobian(lambda z: function(z).flatten(1).sum(0), at)
    return full.flatten(2).transpose(0, 1)


def cell_of(deq: DEQ, x: Tensor) -> Function:
    """f(·; u(x)) on flat states."""
    u = deq.injection(x).detach()
    return lambda z: deq.cell(z.view(u.shape), u).flatten(1).detach()


def start_of(deq: DEQ, x: Tensor) -> Tensor:
    """z_0, flat."""
    u = deq.injection(x).detach()
    return (deq.cell.initial_state(u) if hasattr(deq.cell, "initial_state") else torch.zeros_like(u)).flatten(1)


def state_jacobian(deq: DEQ, x: Tensor, z: Tensor) -> Tensor:
    """J = df/dz at a flat z."""
    u = deq.injection(x).detach()
    return jacobian(lambda z: deq.cell(z.view(u.shape), u), z.detach())


def image_jacobian(deq: DEQ, x: Tensor, z: Tensor) -> Tensor:
    """df(z; u(x))/dx at a flat z."""

    def value(x: Tensor) -> Tensor:
        u = deq.injection(x)
        return deq.cell(z.detach().view_as(u), u)

    return jacobian(value, x)


def loss_gradient(deq: DEQ, z: Tensor, loss: Function) -> Tensor:
    """∂L/∂z of the loss read at a flat z."""
    z = z.detach().requires_grad_()
    return torch.autograd.grad(loss(deq.head(z)).sum(), z)[0]


def pulled_to_image(deq: DEQ, x: Tensor, z: Tensor, u: Tensor) -> Tensor:
    """(∂f(z)/∂x) u in the notation of the paper."""
    return apply(image_jacobian(deq, x, z).mT, u).view_as(x)


def relative_residual(function: Function, z: Tensor) -> Tensor:
    return (function(z) - z).norm(dim=1) / function(z).norm(dim=1)


def broyden(
    function: Function,
    initial: Tensor,
    max_steps: int,
    step_size: float = 1.0,
    tol: float = 0.0,
    limit: int | None = None,
    searched: Tensor | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """Eqs. 7 and 8 with dense matrices: z_0 … z_N and B_0 … B_N; a converged sample stays as it is.

    `searched` gives a step size for every step and sample, (N, B).
    """
    z, g = initial, function(initial) - initial
    identity = torch.eye(z.shape[1]).expand(len(z), -1, -1)
    b, updates, active = -identity, 0, torch.ones(len(z), dtype=torch.bool)
    states, inverses = [z], [b]
    for n in range(max_steps):
        alpha = torch.full((len(z),), step_size) if searched is None else searched[n]
        s = torch.where(active[:, None], -alpha[:, None] * apply(b, g), 0)
        z = z + s
        y = function(z) - z - g
        g = g + y
        if updates == limit:
            updated, updates = -identity, 0
        else:
            row = apply(b.mT, s)
            column = (s - apply(b, y)) / torch.where(active, dot(row, y), 1)[:, None]
            updated, updates = b + torch.einsum("bi,bj->bij", column, row), updates + 1
        b = torch.where(active[:, None, None], updated, b)
        states.append(z)
        inverses.append(b)
        active = active & ~(relative_residual(function, z) < tol)
    return states, inverses


def anderson(
    function: Function, initial: Tensor, max_steps: int, history: int, mixing: float, ridge: float
) -> list[Tensor]:
    """z_{n+1} = Σ a_i (z_i + β g_i) with the weights from the bordered system of the constrained least squares."""
    states, residuals = [initial], [function(initial) - initial]
    for _ in range(max_steps):
        z, g = torch.stack(states[-history:], 1), torch.stack(residuals[-history:], 1)
        size = g.shape[1]
        system = torch.zeros(len(g), size + 1, size + 1)
        system[:, 0, 1:] = system[:, 1:, 0] = 1
        system[:, 1:, 1:] = g @ g.mT + ridge * torch.eye(size)
        right = torch.zeros(len(g), size + 1)
        right[:, 0] = 1
        weights = torch.linalg.solve(system, right)[:, 1:]
        states.append(torch.einsum("bi,bid->bd", weights, z + mixing * g))
        residuals.append(function(states[-1]) - states[-1])
    return states


def adjoint_states(
    deq: DEQ,
    x: Tensor,
    states: Sequence[Tensor],
    inverses: Sequence[Tensor],
    loss: Function,
    step_size: float,
    transpose: bool,
) -> list[Tensor]:
    """u_0 … u_{N+1} of Eqs. 9 and 10 with dense J and B_n, the transpose of B_n where asked for."""
    u = torch.zeros_like(states[0])
    found = [u]
    for z, b in zip(states, inverses, strict=True):
        v = apply(state_jacobian(deq, x, z).mT, u) + loss_gradient(deq, z, loss) - u
        u = u - step_size * apply(b.mT if transpose else b, v)
        found.append(u)
    return found


def unrolled_gradient(
    deq: DEQ, x: Tensor, start: Tensor, steps: int, damping: float, loss: Function, from_image: bool = False
) -> Tensor:
    """Autograd of an explicit loop of damped steps from a constant state; `from_image`: of f and then these steps."""
    x = x.detach().requires_grad_()
    u = deq.injection(x)
    z = start.detach().view(u.shape)
    z = deq.cell(z, u) if from_image else z
    for _ in range(steps):
        z = (1 - damping) * z + damping * deq.cell(z, u)
    return torch.autograd.grad(loss(deq.head(z)).sum(), x)[0]


def final_state(deq: DEQ, x: Tensor, solution: Tensor) -> Tensor:
    """z_{N+1} from z*, flat, step by step."""
    function, tail = cell_of(deq, x), deq.tail
    z = function(solution) if tail.from_image else solution
    for _ in range(tail.steps):
        z = (1 - tail.damping) * z + tail.damping * function(z)
    return z


def finite_differences(value: Function, at: Tensor, h: float = 1e-4) -> Tensor:
    """The gradient of Σ value by central differences of fourth order, for independent samples, in one evaluation."""
    batch, size = len(at), at[0].numel()
    directions = torch.eye(size).view(size, 1, *at.shape[1:])
    moved = [at + offset * h * directions for offset in (-2, -1, 1, 2)]
    values = value(torch.stack(moved).flatten(0, 2)).view(4, size, batch)
    return (torch.tensor([1.0, -8.0, 8.0, -1.0]) @ values.flatten(1) / (12 * h)).view(size, batch).T.reshape(at.shape)


def parameter_differences(value: Callable[[], Tensor], entry: Tensor, h: float = 1e-4) -> Tensor:
    """The derivative of a scalar by one entry of a parameter (a 0-dimensional view of it), likewise."""
    before, total = entry.item(), torch.zeros(())
    with torch.no_grad():
        for offset, weight in zip((-2, -1, 1, 2), (1, -8, 8, -1), strict=True):
            entry.fill_(before + offset * h)
            total = total + weight * value()
        entry.fill_(before)
    return total / (12 * h)


def circular_matrix(kernel: Tensor, sides: tuple[int, int]) -> Tensor:
    """The matrix of a circular convolution, entry by entry."""
    (out, inner, side), (height, width) = kernel.shape[:3], sides
    matrix = torch.zeros(out, height, width, inner, height, width, dtype=kernel.dtype)
    for row in range(height):
        for column in range(width):
            for i in range(side):
                for j in range(side):
                    at = (row + i - side // 2) % height, (column + j - side // 2) % width
                    matrix[:, row, column, :, at[0], at[1]] += kernel[:, :, i, j]
    return matrix.reshape(out * height * width, inner * height * width)
