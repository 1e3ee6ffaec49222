"""Batch normalisation over the batches of all processes, on any backend of torch.distributed.

The processes' counts, means and sums of squared deviations are merged (Chan, Golub and LeVeque, "Updating formulae and
a pairwise algorithm for computing sample variances", 1979):

    n = Σ n_r,   μ = Σ n_r μ_r / n,   σ² = Σ (M_r + n_r (μ_r − μ)²) / n.

They travel in one sum over the processes, whose backward pass is that sum again. So when each process back-propagates
its share of a loss, the gradients are those of all shares together: the loss of the one big batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

Module = TypeVar("Module", bound=nn.Module)


class _Sum(torch.autograd.Function):
    """The sum of a tensor over the processes, in every process."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Tensor:
        (cotangent,) = cotangents
        return _Sum.apply(cotangent)


class SynchronizedBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` that is trained with the statistics of all processes of the default group.

    The batches of the processes may differ in size; every process must run the same layers. In eval mode, or where
    there is one process, it is `nn.BatchNorm2d` to the bit and nothing is communicated. Its arguments, parameters and
    buffers are those of `nn.BatchNorm2d`, too.
    """

    @override
    def forward(self, input: Float[Tensor, "batch channels height width"]) -> Tensor:
        """Normalise the feature maps, (B, C, H, W)."""
        if not self.training or not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
            return super().forward(input)
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        count, mean, variance = _statistics(x)
        self._track(count.detach(), mean.detach(), variance.detach())
        scale = (variance + self.eps).rsqrt()
        centred = x - mean.view(-1, 1, 1)
        if self.weight is None:
            return (centred * scale.view(-1, 1, 1)).to(input.dtype)
        scale = scale * self.weight
        return torch.addcmul(self.bias.view(-1, 1, 1), centred, scale.view(-1, 1, 1)).to(input.dtype)

    def _track(
        self, count: Float[Tensor, ""], mean: Float[Tensor, "channels"], variance: Float[Tensor, "channels"]
    ) -> None:
        """Move the running statistics towards those of the batch, with the unbiased variance."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        self.running_mean.mul_(1 - momentum).add_(momentum * mean)
        self.running_var.mul_(1 - momentum).add_(momentum * variance * (count / (count - 1)))


def _statistics(
    x: Float[Tensor, "batch channels height width"],
) -> tuple[Float[Tensor, ""], Float[Tensor, "channels"], Float[Tensor, "channels"]]:
    """n, μ and σ² (biased) of the feature maps of all processes."""
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    count = x.new_full((1,), x.numel() // x.shape[1])
    variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
    row = torch.cat([count, mean, count * variance])
    table = _Sum.apply(F.pad(row[None], (0, 0, rank, world - 1 - rank)))
    counts, means, squares = table.split([1, len(mean), len(mean)], dim=1)
    total = counts.sum()
    merged = (counts * means).sum(dim=0) / total
    return total, merged, (squares + counts * (means - merged).square()).sum(dim=0) / total


def synchronized(module: Module) -> Module:
    """Turn every `nn.BatchNorm2d` of a module into a `SynchronizedBatchNorm2d`, in place.

    The layers keep their identity: parameters, buffers, settings, mode and the keys of the state dict stay as they are.
    Subclasses of `nn.BatchNorm2d` are left alone.

    Args:
        module: any module; a BatchNorm layer itself, too.

    Returns:
        The module.
    """
    for part in module.modules():
        if type(part) is nn.BatchNorm2d:
            part.__class__ = SynchronizedBatchNorm2d
    return module


def separated(module: Module) -> Module:
    """Turn what `synchronized` turned back into `nn.BatchNorm2d`, in place, and return the module."""
    for part in module.modules():
        if part.__class__ is SynchronizedBatchNorm2d:
            part.__class__ = nn.BatchNorm2d
    return module


@contextmanager
def apart(module: nn.Module) -> Iterator[None]:
    """Within it a module is separated, as it is to be saved."""
    turned = [part for part in module.modules() if type(part) is SynchronizedBatchNorm2d]
    separated(module)
    try:
        yield
    finally:
        for part in turned:
            synchronized(part)
