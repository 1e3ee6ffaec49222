"""AutoAttack (Croce and Hein, ICML 2020): its attacks, each on the images that have withstood all before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from jaxtyping import Float, Integer
from torch import Tensor, nn

from robustdeq.attacks.components import APGD, FAB, Component, Square, TargetedAPGD, TargetedFAB, stand
from robustdeq.base.errors import InputError
from robustdeq.base.progress import Report
from robustdeq.base.threat import ThreatModel


def cascade(
    components: Mapping[str, Component],
    surrogate: nn.Module,
    x: Float[Tensor, "batch *image"],
    y: Integer[Tensor, "batch"],
    target: nn.Module | None = None,
    report: Report | None = None,
) -> Float[Tensor, "batch *image"]:
    """Run attacks one after another, each on the images that have withstood all before it.

    Args:
        components: the attacks by name, at least one, in order.
        surrogate: the model whose gradient is climbed.
        x: the images, pixels in [0, 1].
        y: their labels.
        target: the model that decides what has succeeded; None for the surrogate.
        report: called before each attack with the share of the attacks that are done and the name of the next.

    Returns:
        The adversaries; an image that is misclassified as it is, or that withstood them all, is returned as it is.

    Raises:
        InputError: x or y cannot be used, or one of the attacks does not apply to such images or so few classes; no
            attack has run then.
    """
    judge = surrogate if target is None else target
    report = report or (lambda share, what: None)
    first, *_ = components.values()
    standing, classes = stand(first.threat, judge, x, y)
    for component in components.values():
        component.check(x, classes)
    adversaries = x.detach().clone()
    for done, (name, component) in enumerate(components.items()):
        report(done / len(components), name)
        if not standing.any():
            break
        found = component(surrogate, x[standing], y[standing], target)
        withstood, _ = stand(component.threat, judge, found, y[standing])
        fallen = standing.nonzero()[:, 0][~withstood]
        adversaries[fallen] = found[~withstood]
        standing[fallen] = False
    report(1.0, "done")
    return adversaries


@dataclass(frozen=True)
class Cascade:
    """Attacks of one's choice one after another, each on the images that have withstood all before it.

    Args:
        components: the attacks, in order; each runs with the seed given here.
        seed: of every attack and every batch.

    Raises:
        InputError: there is no attack, or two have the same name.
    """

    components: tuple[Component, ...]
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.components or len(self._named) < len(self.components):
            raise InputError(f"the attacks are {list(self._named)}; give at least one, and none of them twice.")

    @property
    def _named(self) -> dict[str, Component]:
        return {component.name: replace(component, seed=self.seed) for component in self.components}

    @property
    def gradients(self) -> int:
        """How many input gradients it takes per image, at most."""
        return sum(component.gradients for component in self.components)

    @property
    def queries(self) -> int:
        """How many forward passes it takes per image beyond those, at most."""
        return sum(component.queries + 1 for component in self.components)

    def __call__(
        self,
        surrogate: nn.Module,
        x: Float[Tensor, "batch *image"],
        y: Integer[Tensor, "batch"],
        target: nn.Module | None = None,
        report: Report | None = None,
    ) -> Float[Tensor, "batch *image"]:
        """Make adversaries; see `cascade`."""
        return cascade(self._named, surrogate, x, y, target, report)


class Version(StrEnum):
    """Which attacks make the ensemble."""

    STANDARD = "standard"
    PLUS = "plus"
    CUSTOM = "custom"


class Judge(StrEnum):
    """Whose logits decide, while the attacks run, what has succeeded."""

    TARGET = "target"
    SURROGATE = "surrogate"


_VERSIONS = {
    Version.STANDARD: ("apgd-ce", "apgd-t", "fab-t", "square"),
    Version.PLUS: ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
}


@dataclass(frozen=True)
class AutoAttack:
    """The ensemble of attacks without parameters, each on the images that have withstood all before it.

    Args:
        eps: the radius of the ball, in the units of pixels.
        norm: `"Linf"` or `"L2"`.
        version: `"standard"` (apgd-ce, apgd-t, fab-t, square), `"plus"` (apgd-dlr and fab as well, and 5 restarts of
            the attacks without target), or `"custom"`: the `attacks`, with the settings of `"plus"`.
        attacks: the names of the attacks, in order, only for `"custom"`.
        seed: of every attack and every batch.
        judge: `"target"`: success is judged on the target all along, through `Judged`; `"surrogate"`: the target is
            ignored, as in the paper (§6.3), and the adversaries are those that fool the surrogate.

    Raises:
        InputError: a setting is out of its range.
    """

    eps: float = 8 / 255
    norm: str = "Linf"
    version: str = "standard"
    attacks: tuple[str, ...] | None = None
    seed: int = 0
    judge: str = "target"

    def __post_init__(self) -> None:
        self.threat  # noqa: B018
        for name, kind in (("version", Version), ("judge", Judge)):
            if getattr(self, name) not in list(kind):
                known = ", ".join(repr(str(choice)) for choice in kind)
                raise InputError(f"{name} is {getattr(self, name)!r}; choose one of {known}.")
        if (self.version == Version.CUSTOM) != (self.attacks is not None):
            raise InputError(
                f"version is {str(self.version)!r} and attacks is {self.attacks!r}; name the attacks for 'custom', and "
                "for no other version."
            )
        if self.attacks is not None and not (self.attacks and set(self.attacks) <= set(self._known)):
            raise InputError(
                f"attacks is {self.attacks!r}; choose at least one of {', '.join(map(repr, self._known))}."
            )

    @property
    def threat(self) -> ThreatModel:
        """The ball it stays in."""
        return ThreatModel(self.eps, self.norm)

    @property
    def _known(self) -> dict[str, Component]:
        common: dict[str, Any] = {"eps": self.eps, "norm": self.norm, "seed": self.seed}
        restarts = 1 if self.version == Version.STANDARD else 5
        known = (
            APGD(loss="ce", restarts=restarts, **common),
            APGD(loss="dlr", restarts=restarts, **common),
            TargetedAPGD(**common),
            FAB(restarts=restarts, **common),
            TargetedFAB(**common),
            Square(**common),
        )
        return {component.name: component for component in known}

    @property
    def components(self) -> dict[str, Component]:
        """Its attacks by name, in order, with the authors' settings: each can be run alone."""
        names = _VERSIONS[Version(self.version)] if self.attacks is None else self.attacks
        known = self._known
        return {name: known[name] for name in names}

    @property
    def _cascade(self) -> Cascade:
        return Cascade(tuple(self.components.values()), self.seed)

    @property
    def gradients(self) -> int:
        """How many input gradients it takes per image, at most."""
        return self._cascade.gradients

    @property
    def queries(self) -> int:
        """How many forward passes it takes per image beyond those, at most."""
        return self._cascade.queries

    def __call__(
        self,
        surrogate: nn.Module,
        x: Float[Tensor, "batch *image"],
        y: Integer[Tensor, "batch"],
        target: nn.Module | None = None,
        report: Report | None = None,
    ) -> Float[Tensor, "batch *image"]:
        """Make adversaries; see `cascade`, where `target` is what `judge` says."""
        return self._cascade(surrogate, x, y, None if self.judge == Judge.SURROGATE else target, report)
