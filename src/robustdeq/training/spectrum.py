"""How contractive a model is: the spectral radius of J = df/dz at z* (Bai, Koltun and Kolter, ICML 2021).

Below 1, plain iteration of f converges near z*. The power method finds it from vector-Jacobian products alone. Its
usual read-out, the Rayleigh quotient of the last vector, has no limit where the dominant eigenvalues are a complex
pair, as those of a real J without symmetry often are: the vector then turns for ever in their plane. The growth factors
‖Jᵀv‖ / ‖v‖ oscillate with it, but their geometric mean does converge to the radius (Gelfand's formula); the weights of
the mean taper towards both ends of the steps it is taken over, so that the oscillation cancels faster.

The Lipschitz constant of f there, ‖J‖₂, bounds the radius from above. It is the square root of the dominant eigenvalue
of JᵀJ, which is symmetric, so that the plain power method finds it. Products J v come from differentiating Jᵀ c in c,
which needs no forward-mode rules.
"""

from __future__ import annotations

import torch

from robustdeq.base.errors import require
from robustdeq.base.shapes import PerSample, per_sample
from robustdeq.deq.cell import Linearization
from robustdeq.deq.solve import Solution


def spectral_radius(solution: Solution, steps: int = 20, generator: torch.Generator | None = None) -> PerSample:
    """An estimate of the spectral radius of J at z*, per sample, without gradient and without host synchronisation.

    The weighted geometric mean of the growth factors of the power method over the last half of its steps, with the
    weights i (m + 1 − i), i = 1 … m.

    Args:
        solution: a solve.
        steps: of the power method, one vector-Jacobian product each.
        generator: where the first vectors are drawn from, on the device of the states; None for the default one.

    Returns:
        The estimates, (B,); 0 where a power of J that the steps reach is 0, nan where z* or J is not finite.

    Raises:
        InputError: steps is not positive.
    """
    require(steps >= 1, f"steps is {steps}; the power method makes at least 1 step.")
    states = solution.trajectory.solution
    linearization = Linearization(solution.cell, states.view(solution.trajectory.shape))
    v = torch.randn(states.shape, generator=generator, dtype=states.dtype, device=states.device)
    norm, smallest = torch.linalg.vector_norm(v, dim=1), torch.finfo(v.dtype).tiny
    growth = []
    for remaining in reversed(range(steps)):
        v, _ = linearization.vjp(v / norm.clamp_min(smallest)[:, None], retain=remaining > 0)
        norm = torch.linalg.vector_norm(v, dim=1)
        growth.append(norm)
    averaged = torch.stack(growth[steps // 2 :])
    i = torch.arange(1, len(averaged) + 1, dtype=v.dtype, device=v.device)
    weights = i * (len(averaged) + 1 - i)
    return (weights / weights.sum() @ averaged.log()).exp()


def lipschitz_constant(solution: Solution, steps: int = 20, generator: torch.Generator | None = None) -> PerSample:
    """An estimate, from below, of ‖J‖₂ at z*, per sample, without gradient and without host synchronisation.

    Args:
        solution: a solve.
        steps: of the power method on JᵀJ, a product with J and one with Jᵀ each.
        generator: where the first vectors are drawn from, on the device of the states; None for the default one.

    Returns:
        The estimates, (B,); nan where z* or J is not finite.

    Raises:
        InputError: steps is not positive.
    """
    require(steps >= 1, f"steps is {steps}; the power method makes at least 1 step.")
    states = solution.trajectory.solution
    z = states.view(solution.trajectory.shape).detach().requires_grad_()
    v = torch.randn(states.shape, generator=generator, dtype=states.dtype, device=states.device).view_as(z)
    with torch.enable_grad():
        value = solution.cell(z)
        cotangent = torch.zeros_like(value, requires_grad=True)
        (pulled,) = torch.autograd.grad(value, z, cotangent, create_graph=True)
    smallest = torch.finfo(v.dtype).tiny
    growth = states.new_zeros(len(states))
    for remaining in reversed(range(steps)):
        norm = torch.linalg.vector_norm(v.flatten(1), dim=1).clamp_min(smallest)
        v = v / per_sample(norm, v)
        (pushed,) = torch.autograd.grad(pulled, cotangent, v, retain_graph=True)
        growth = torch.linalg.vector_norm(pushed.flatten(1), dim=1)
        (v,) = torch.autograd.grad(value, z, pushed, retain_graph=remaining > 0)
    return growth
