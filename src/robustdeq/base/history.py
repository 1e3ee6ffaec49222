"""What autograd remembers of tensors: how they were made of one another, and how often they were changed in place."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def version(tensor: Tensor) -> int:
    """How often a tensor was changed in place; 0 where that is not counted, in inference mode."""
    return 0 if tensor.is_inference() else tensor._version


def entangled(tensors: Sequence[Tensor]) -> bool:
    """Whether one of these tensors was made of another, so that its derivative holds that of the other."""
    live = [tensor for tensor in tensors if tensor.requires_grad]
    return len(live) > 1 and bool(_descendants(live, live))


def made_of(tensors: Sequence[Tensor], source: Tensor) -> list[Tensor]:
    """Those of these tensors that were made of another, or are it."""
    found = _descendants(tensors, [source])
    return [tensor for tensor in tensors if tensor is source or id(tensor) in found]


def _descendants(tensors: Sequence[Tensor], sources: Sequence[Tensor]) -> set[int]:
    """The `id` of each of these tensors that was made of a source."""
    leaves = {id(source) for source in sources if source.grad_fn is None}
    outputs = {(source.grad_fn, source.output_nr) for source in sources if source.grad_fn is not None}

    def descends(tensor: Tensor) -> bool:
        seen, ahead = set(), [tensor.grad_fn]
        while ahead:
            node = ahead.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            for edge in node.next_functions:
                if edge in outputs or id(getattr(edge[0], "variable", None)) in leaves:
                    return True
                ahead.append(edge[0])
        return False

    return {id(tensor) for tensor in tensors if descends(tensor)}
