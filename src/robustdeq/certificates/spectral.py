"""How far the logits of a monotone DEQ can move with its input: cheap enough, and differentiable, to be trained with.

It is the bound of `robustdeq.certificates.lipschitz` with S and U on the whole grid, border included, where both are
circular convolutions: a small matrix at every frequency. States are zero on the border, so that the bound holds there
too; what it does not count is its own rounding.
"""

from __future__ import annotations

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from robustdeq.base.errors import InputError
from robustdeq.base.norms import L2
from robustdeq.deq.monotone.kernels import symbol, transposed
from robustdeq.zoo.monotone import MonotoneNetwork

Slopes = Float[Tensor, "classes classes"]


def logit_slopes(model: nn.Module) -> Slopes:
    """Bounds on |⟨c, Δz⟩| / ‖δ‖ for every pair of classes, differentiable in the weights.

    Args:
        model: of `rd.models.monotone`.

    Raises:
        InputError: it is another model, or its W is not monotone in the Euclidean norm.
    """
    network = _euclidean(model)
    operator = network.operator
    kernel, sides = operator.kernel(), operator.sides
    symmetric = operator.identity(1.0, kernel.shape[-1]) - (kernel + transposed(kernel)) / 2
    root = torch.linalg.cholesky(symbol(symmetric, sides))
    injected = torch.linalg.solve_triangular(root, symbol(network.injected, sides), upper=False)
    classified = torch.linalg.solve_triangular(root, _waves(network), upper=False)
    largest = torch.linalg.eigvalsh(injected @ injected.mH).max().sqrt()
    return (_pairs(injected.mH @ classified, sides[1]) + _pairs(classified, sides[1]) * largest) / 2


def _euclidean(model: nn.Module) -> MonotoneNetwork:
    if not isinstance(model, MonotoneNetwork):
        raise InputError(f"the slopes of a {type(model).__name__} are not known; give a model of `rd.models.monotone`.")
    if model.operator.norm != L2():
        raise InputError('W contracts in the largest entry, not in the Euclidean norm; give operator="monotone".')
    return model


def _waves(network: MonotoneNetwork) -> Complex[Tensor, "rows columns channels classes"]:
    """The rows of the classifier at every frequency, what they say of the border left out."""
    operator, like = network.operator, network.injected
    states = like.new_zeros(network.num_classes, operator.channels, *operator.sides)
    backwards = torch.func.vjp(network.classifier, states)[1]
    (rows,) = backwards(torch.eye(len(states)).to(like))
    return torch.fft.rfft2(network.cell.positive(torch.ones_like(rows)) * rows, norm="ortho").permute(2, 3, 1, 0)


def _pairs(waves: Complex[Tensor, "rows columns dim classes"], width: int) -> Slopes:
    """The norms of the differences of functions, over all frequencies of a grid of this width."""
    columns = torch.arange(waves.shape[1], device=waves.device)
    conjugates = torch.where((columns == 0) | (2 * columns == width), 1.0, 2.0).to(waves.real.dtype)
    points = torch.view_as_real(waves * conjugates.sqrt()[:, None, None]).permute(3, 0, 1, 2, 4).flatten(1)
    return torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
