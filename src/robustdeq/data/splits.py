"""Training, development and test images, and the rules that hold images out of a set."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch

from robustdeq.base.errors import InputError
from robustdeq.data.images import Images

Role = Literal["train", "development", "test"]
MOST_HELD_OUT = 1000


@dataclass(frozen=True)
class Splits:
    """The three parts of a dataset; a part that the source lacks is None.

    Args:
        train: images to fit weights to.
        development: images to choose settings on, disjoint from the other two.
        test: images to report numbers on.
    """

    train: Images | None
    development: Images | None
    test: Images | None

    def require(self, role: Role) -> Images:
        """The part named `role`.

        Raises:
            InputError: the source has no such part.
        """
        part: Images | None = getattr(self, role)
        if part is None:
            present = next(images.source for images in (self.train, self.development, self.test) if images is not None)
            raise InputError(f"The data has no {role} split, only {present}: point --data to a source that has one.")
        return part


def assemble(train: Images | None = None, validation: Images | None = None, test: Images | None = None) -> Splits:
    """Splits from the parts that a source comes in.

    Validation images are the test split where no other is there, else the development split. A development split that
    is still missing is held out of the training images: `min(1000, 10 %)` of them, the last ones, or stratified where
    the training images of each class stand together.

    Args:
        train: all training images.
        validation: images the source calls validation.
        test: images the source calls test.

    Returns:
        Splits with one common tuple of classes.

    Raises:
        InputError: the parts differ in image size, scale or classes.
    """
    if test is None:
        validation, test = None, validation
    parts = _consistent({"train": train, "development": validation, "test": test})
    if train is not None and validation is None:
        parts |= _with_development(parts["train"])
    return Splits(parts.get("train"), parts.get("development"), parts.get("test"))


def hold_out_last(images: Images, n: int) -> tuple[Images, Images]:
    """Cut off the last `n` images (CIFAR's development split is the last 1,000 training images).

    Args:
        images: the images to split.
        n: how many to hold out.

    Returns:
        The images before them, and the last `n`.

    Raises:
        InputError: `n` leaves no image on one side.
    """
    _check_sizes(images, (n,))
    total = len(images)
    cut = total - n
    return (
        images.subset(slice(cut), part=f"first {cut} of {total}"),
        images.subset(slice(cut, total), part=f"last {n} of {total}"),
    )


def hold_out_stratified(images: Images, *sizes: int, seed: int = 0) -> tuple[Images, ...]:
    """Hold out random parts in which every class has its share, to within one or two images.

    Within each class the images are shuffled and spread evenly over [0, 1]; sorting all images by that position gives
    an order of which every stretch is stratified.

    Args:
        images: the images to split.
        sizes: how many to hold out for each part.
        seed: of the shuffle.

    Returns:
        The remaining images, then one part for each size.

    Raises:
        InputError: `sizes` leave some part without an image.
    """
    _check_sizes(images, sizes)
    total = len(images)
    shuffled = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    by_class = shuffled[images.labels[shuffled].argsort(stable=True)]
    counts = images.labels.bincount(minlength=len(images.classes))
    rank = torch.arange(total) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    position = (rank.double() + 0.5) / counts.repeat_interleave(counts)
    order = by_class[position.argsort(stable=True)]
    return tuple(
        images.subset(chosen, part=f"{len(chosen)} of {total}, stratified with seed {seed}")
        for chosen in order.split([total - sum(sizes), *sizes])
    )


def _check_sizes(images: Images, sizes: tuple[int, ...]) -> None:
    if min(sizes) < 1 or sum(sizes) >= len(images):
        wanted = " + ".join(map(str, sizes))
        raise InputError(
            f"Cannot hold {wanted} of the {len(images)} images of {images.source} out: "
            "every part, and the rest, needs at least one."
        )


def _with_development(train: Images) -> dict[str, Images]:
    n = min(MOST_HELD_OUT, len(train) // 10)
    if n == 0:
        return {"train": train}
    grouped = len(train.labels.unique_consecutive()) == len(train.labels.unique())
    rest, development = hold_out_stratified(train, n) if grouped else hold_out_last(train, n)
    return {"train": rest, "development": development}


def _consistent(parts: Mapping[str, Images | None]) -> dict[str, Images]:
    present = {role: images for role, images in parts.items() if images is not None}
    widest = max(present.values(), key=lambda images: len(images.classes))
    for images in present.values():
        if images.pixels.shape[1:] != widest.pixels.shape[1:]:
            ours, theirs = ("×".join(map(str, i.pixels.shape[1:])) for i in (images, widest))
            raise InputError(
                f"{images.source} has {ours} images but {widest.source} has {theirs}: bring them to one size."
            )
        if images.scale != widest.scale:
            raise InputError(
                f"{images.source} has the scale {images.scale} but {widest.source} {widest.scale}: bring them to one."
            )
        if images.classes != widest.classes[: len(images.classes)]:
            raise InputError(
                f"{images.source} and {widest.source} name their classes differently: give both the same class names."
            )
    return {role: replace(images, classes=widest.classes) for role, images in present.items()}
