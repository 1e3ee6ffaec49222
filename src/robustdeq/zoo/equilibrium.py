"""What the equilibrium models of the zoo have in common: a size of images, a Broyden solve and a damped tail."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeVar

from torch import Tensor
from typing_extensions import override

from robustdeq.base.errors import InputError
from robustdeq.deq.model import DEQ
from robustdeq.deq.tail import Unroll
from robustdeq.solvers import Broyden
from robustdeq.zoo.architecture import Architecture, ZooModel

Sized = TypeVar("Sized", bound="EquilibriumConfig")


@dataclass(frozen=True, kw_only=True)
class EquilibriumConfig(Architecture):
    """The settings of a DEQ of the zoo that do not depend on its cell.

    Args:
        image_size: Side, or height and width, of the images in pixels.
        max_steps: Steps of the solver.
        tol: Relative residual at which a sample has converged.
        tail_steps: Damped steps after f(z*).
        tail_damping: Damping λ of these steps.

    Raises:
        InputError: If the images have not two sides.
    """

    image_size: int | tuple[int, int] = 32
    max_steps: int = 8
    tol: float = 1e-3
    tail_steps: int = 5
    tail_damping: float = 0.5

    def __post_init__(self) -> None:
        if not isinstance(self.image_size, int) and len(self.image_size) != 2:
            raise InputError(f"image_size is {self.image_size}; give the side, or height and width, of the images.")

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size

    @property
    def iteration(self) -> dict[str, Any]:
        """The solver and the tail, as a `DEQ` takes them."""
        return {
            "solver": Broyden(max_steps=self.max_steps, tol=self.tol, stop="rel"),
            "tail": Unroll(steps=self.tail_steps, damping=self.tail_damping, from_image=True),
        }

    @override
    def sized(self: Sized, image_size: int | tuple[int, int] | None) -> Sized:
        return self if image_size is None else replace(self, image_size=image_size)


Config = TypeVar("Config", bound=EquilibriumConfig)


class EquilibriumModel(DEQ, ZooModel[Config]):
    """A DEQ of the zoo, which refuses images of another size than its own."""

    @property
    @override
    def image_shape(self) -> tuple[int, int, int]:
        return self.in_channels, *self.config.sides

    @override
    def check_input(self, x: Tensor) -> None:
        super().check_input(x)
        if x.shape[1:] != self.image_shape:
            raise InputError(f"x has images of shape {tuple(x.shape[1:])}; this model was made for {self.image_shape}.")
