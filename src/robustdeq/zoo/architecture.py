"""What every network of the zoo says of itself: what it was built from and which images it takes.

A network is one file with two classes: a frozen dataclass of settings that derives from `Architecture` and builds it,
and the network, which derives from `ZooModel`. One line in `zoo/presets.py` gives it a name; training, saving and
loading need nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from torch import nn

from robustdeq.base.errors import InputError

Settings = TypeVar("Settings", bound="Architecture")


@dataclass(frozen=True)
class Architecture(ABC):
    """The settings that tell one network of its kind from another, apart from its images and classes.

    Attributes:
        kind: the name of the class that it builds, which weights files record.
    """

    kind: ClassVar[str]

    @abstractmethod
    def network(self, num_classes: int, in_channels: int) -> ZooModel[Any]:
        """The network with fresh weights, of so many logits, for images of so many channels."""

    def sized(self: Settings, image_size: int | tuple[int, int] | None) -> Settings:
        """The same settings for images of another size, None for their own; of a network for any size, themselves."""
        return self

    def build(
        self, num_classes: int = 10, in_channels: int = 3, image_size: int | tuple[int, int] | None = None
    ) -> ZooModel[Any]:
        """The network with fresh weights.

        Args:
            num_classes: how many logits it gives.
            in_channels: the channels of the images.
            image_size: side, or height and width, of the images in pixels; those of the settings by default. A network
                for images of any size ignores it.
        """
        return self.sized(image_size).network(num_classes, in_channels)

    @property
    @abstractmethod
    def summary(self) -> str:
        """What it is, in a few words."""


class ZooModel(nn.Module, Generic[Settings]):
    """A network that remembers what it was built from, so that it can be saved, loaded and held against images.

    Attributes:
        config: its settings.
        num_classes: how many logits it gives.
        in_channels: the channels of its images.
    """

    config: Settings
    num_classes: int
    in_channels: int

    @property
    def image_shape(self) -> tuple[int, int | None, int | None]:
        """(channels, height, width) of its images, None where any will do."""
        return self.in_channels, None, None

    def check_images(self, shape: Sequence[int], classes: int, source: str, name: str = "the model") -> None:
        """Raise `InputError` unless it was made for such images.

        Args:
            shape: (channels, height, width) of the images.
            classes: how many classes they fall into.
            source: where the images come from.
            name: what the sentence calls this model, such as its file.
        """
        sides = self.image_shape
        fits = len(shape) == len(sides) and all(a in (None, b) for a, b in zip(sides, shape, strict=True))
        if not fits or classes != self.num_classes:
            expected = ", ".join("any" if side is None else str(side) for side in sides)
            raise InputError(
                f"{name} was made for images of shape ({expected}) in {self.num_classes} classes, and {source} has "
                f"{tuple(shape)} in {classes}; give other weights or other data."
            )
