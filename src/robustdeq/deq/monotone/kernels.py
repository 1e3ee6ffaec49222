"""The algebra of circular convolutions: (K z)[p] = Σ_d K[d] z[p + d], positions taken modulo the sides of the grid.

A kernel is (C, C, k, k) with k odd, and the offset 0 in its middle. A matrix is the kernel of side 1 on a grid
of one position, so that all of this holds for fully connected layers too.
"""

from __future__ import annotations

import torch
from jaxtyping import Complex, Float
from torch import Tensor
from torch.nn import functional as F

Kernel = Float[Tensor, "channels channels _ _"]
Grid = Float[Tensor, "batch channels height width"]
Symbol = Complex[Tensor, "_ _ channels channels"]


def apply(kernel: Kernel, z: Grid) -> Grid:
    """K z."""
    reach = kernel.shape[-1] // 2
    return F.conv2d(_wrapped(z, reach) if reach else z, kernel)


def _wrapped(z: Grid, reach: int) -> Float[Tensor, "batch channels _ _"]:
    """A grid with what lies `reach` positions beyond each side, however small it is."""
    for axis in (2, 3):
        side = z.shape[axis]
        z = z.index_select(axis, torch.arange(-reach, side + reach, device=z.device) % side)
    return z


def transposed(kernel: Kernel) -> Kernel:
    """Kᵀ."""
    return kernel.transpose(0, 1).flip(2, 3)


def composed(outer: Kernel, inner: Kernel) -> Kernel:
    """The kernel of z → outer (inner z), of side k_outer + k_inner − 1."""
    product = F.conv2d(inner.transpose(0, 1), outer.flip(2, 3), padding=outer.shape[-1] - 1)
    return product.transpose(0, 1)


def padded(kernel: Kernel, side: int) -> Kernel:
    """The same kernel with zeros around it, up to a side."""
    more = (side - kernel.shape[-1]) // 2
    return F.pad(kernel, (more,) * 4)


def diagonal(values: Float[Tensor, "channels"], side: int) -> Kernel:
    """The kernel of z → values · z."""
    return padded(torch.diag(values)[:, :, None, None], side)


def symbol(
    kernel: Float[Tensor, "outputs inputs _ _"], sides: tuple[int, int]
) -> Complex[Tensor, "_ _ outputs inputs"]:
    """The matrix Σ_d K[d] exp(iω·d) at every frequency ω of the grid; those that are conjugates of others left out."""
    side = kernel.shape[-1]
    rows, columns = (torch.arange(side, device=kernel.device) - side // 2 for _ in "ab")
    height, width = sides
    places = ((rows % height)[:, None] * width + columns % width).flatten()
    spread = kernel.new_zeros(*kernel.shape[:2], height * width).index_add(2, places, kernel.flatten(2))
    return torch.fft.rfft2(spread.view(*kernel.shape[:2], height, width)).conj().permute(2, 3, 0, 1)


def times(symbol: Symbol, z: Grid) -> Grid:
    """The convolution with that symbol of a grid."""
    waves = torch.fft.rfft2(z).permute(2, 3, 1, 0)
    return torch.fft.irfft2((symbol @ waves).permute(3, 2, 0, 1), s=z.shape[2:])
