"""What a state is made of: tensors in tuples, lists and dicts, which lie in one flat tensor for a solver."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map, tree_unflatten

from robustdeq.base.errors import InputError, require

Tree = Any
"""A tensor (B, …), or tensors in tuples, lists and dicts of any depth (whatever `torch.utils._pytree` knows)."""


@dataclass(frozen=True)
class Structure:
    """How the tensors of a tree lie in one: a single tensor as it is, several side by side as (B, D).

    Its methods run within compiled f, where shapes cannot be checked; so their annotations name none.

    Attributes:
        spec: how they are nested.
        shapes: of each, without the batch.
    """

    spec: TreeSpec
    shapes: tuple[torch.Size, ...]

    @classmethod
    def of(cls, name: str, tree: Tree) -> Structure:
        """The structure of a tree, which messages call by a name.

        Raises:
            InputError: it holds something else than tensors of one floating-point dtype and one number of samples.
        """
        leaves, spec = tree_flatten(tree)
        strange = [leaf for leaf in leaves if not isinstance(leaf, Tensor)]
        if strange or not leaves:
            held = f"a {type(strange[0]).__name__}" if strange else "no tensor"
            raise InputError(f"the {name} holds {held}; make it a tensor, or tensors in tuples, lists and dicts.")
        dtypes = sorted({str(leaf.dtype) for leaf in leaves})
        require(
            len(dtypes) == 1 and leaves[0].is_floating_point(),
            f"the {name} has dtype {' and '.join(dtypes)}; give all its tensors one floating-point dtype.",
        )
        batches = sorted({len(leaf) if leaf.ndim else 0 for leaf in leaves})
        require(
            len(batches) == 1,
            f"the {name} has tensors of {' and '.join(map(str, batches))} samples; give each of them the batch first.",
        )
        return cls(spec, tuple(leaf.shape[1:] for leaf in leaves))

    @property
    def sizes(self) -> list[int]:
        """How many entries of a sample each tensor has."""
        return [math.prod(shape) for shape in self.shapes]

    def pack(self, tree: Tree) -> Tensor:
        """The one tensor that holds a tree of this structure."""
        if self.spec.is_leaf():
            return tree
        leaves = self.spec.flatten_up_to(tree)
        return torch.cat([leaf.reshape(len(leaf), size) for leaf, size in zip(leaves, self.sizes, strict=True)], dim=1)

    def unpack(self, packed: Tensor) -> Tree:
        """The tree that a tensor holds, as views of it."""
        if self.spec.is_leaf():
            return packed
        parts = packed.split(self.sizes, dim=1)
        leaves = [part.reshape(len(packed), *shape) for part, shape in zip(parts, self.shapes, strict=True)]
        return tree_unflatten(leaves, self.spec)

    def packed(self, function: Callable[[Tree], Tree]) -> Callable[[Tensor], Tensor]:
        """A map of such trees as a map of the tensors that hold them; it raises `InputError` where it changes them."""

        def on_packed(z: Tensor) -> Tensor:
            tree = self.unpack(z)
            value = function(tree)
            if shapes(value) != shapes(tree):
                raise InputError(
                    f"the cell maps a state of shape {shapes(tree)} to {shapes(value)}; "
                    "make it return a state of the shape it was given."
                )
            return self.pack(value)

        return on_packed


WHOLE = Structure.of("state", torch.empty(0))
"""The structure of one tensor."""


def shapes(tree: Tree) -> Tree:
    """The shape of each tensor of a tree in its place, and the type of what is none."""
    return tuple(tree.shape) if isinstance(tree, Tensor) else tree_map(_shape, tree)


def _shape(leaf: object) -> tuple[int, ...] | str:
    return tuple(leaf.shape) if isinstance(leaf, Tensor) else type(leaf).__name__
