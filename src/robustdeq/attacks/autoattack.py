"""AutoAttack (Croce and Hein, ICML 2020): its attacks, each on the images that have withstood all before it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from torch import nn
from typing_extensions import override

from robustdeq.attacks.base import Attack, BallAttack, Cost
from robustdeq.attacks.components import APGD, FAB, Component, Square, TargetedAPGD, TargetedFAB, stand
from robustdeq.base.errors import InputError, check_choice
from robustdeq.base.norms import Norm
from robustdeq.base.progress import Report, silent
from robustdeq.base.shapes import Labels, Pixels
from robustdeq.base.threat import ThreatModel
from robustdeq.deq.defenses import averaged


@dataclass(frozen=True)
class Cascade(Attack):
    """Attacks of one's choice one after another, each on the images that have withstood all before it.

    An image that is misclassified as it is, or that withstands them all, is returned as it is. Where an attack does not
    apply to such images or so few classes, none runs.

    Args:
        components: the attacks, in order, all in one threat model; each runs with the seed given here.
        seed: of every attack and every batch.

    Raises:
        InputError: there is no attack, or two have the same name, or another threat model.
    """

    components: tuple[Component, ...]
    seed: int = 0

    @override
    def __post_init__(self) -> None:
        names = [component.label for component in self.components]
        if not names or len(set(names)) < len(names):
            raise InputError(f"the attacks are {names}; give at least one, and none of them twice.")
        if any(component.threat != self.threat for component in self.components):
            raise InputError("the attacks differ in eps, norm or bounds; give all of them the same.")

    @property
    @override
    def threat(self) -> ThreatModel:
        return self.components[0].threat

    @property
    @override
    def cost(self) -> Cost:
        return sum((component.cost + Cost(0, 1) for component in self.components), Cost(0))

    @property
    @override
    def label(self) -> str:
        return ", ".join(component.label for component in self.components)

    @override
    def check(self, x: Pixels, classes: int) -> None:
        for component in self.components:
            component.check(x, classes)

    @override
    def search(self, surrogate: nn.Module, judge: nn.Module, x: Pixels, y: Labels, report: Report) -> Pixels:
        """Search; before each attack, report the share of the attacks that are done and the label of the next."""
        standing, classes = stand(judge, x, y)
        self.check(x, classes)
        adversaries = x.clone()
        for done, component in enumerate(self.components):
            report(done / len(self.components), component.label)
            if not standing.any():
                break
            attack = replace(component, seed=self.seed)
            found = attack.search(surrogate, judge, x[standing], y[standing], silent)
            withstood, _ = stand(judge, found, y[standing])
            fallen = standing.nonzero()[:, 0][~withstood]
            adversaries[fallen] = found[~withstood]
            standing[fallen] = False
        report(1.0, "done")
        return adversaries


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
class AutoAttack(BallAttack):
    """The ensemble of attacks without parameters, each on the images that have withstood all before it.

    Args:
        eps: the radius of the ball, in the units of pixels.
        norm: `"Linf"`, `"L2"` or `"L1"`, which are those that the library knows.
        version: `"standard"` (apgd-ce, apgd-t, fab-t, square), `"plus"` (apgd-dlr and fab as well, and 5 restarts of
            the attacks without target), or `"custom"`: the `attacks`, with the settings of `"plus"`.
        attacks: the names of the attacks, in order, only for `"custom"`.
        seed: of every attack and every batch.
        judge: `"target"`: success is judged on the target all along, through `Judged`; `"surrogate"`: the target is
            ignored, as in the paper (§6.3), and the adversaries are those that fool the surrogate.
        bounds: the least and the greatest pixel.

    Raises:
        InputError: a setting is out of its range.
    """

    eps: float = 8 / 255
    norm: str | Norm = "Linf"
    version: str = "standard"
    attacks: tuple[str, ...] | None = None
    seed: int = 0
    judge: str = "target"
    bounds: tuple[float, float] = (0.0, 1.0)

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("version", self.version, Version)
        check_choice("judge", self.judge, Judge)
        if (self.version == Version.CUSTOM) != (self.attacks is not None):
            raise InputError(
                f"version is {str(self.version)!r} and attacks is {self.attacks!r}; name the attacks for 'custom', and "
                "for no other version."
            )
        if self.attacks is not None and not (self.attacks and set(self.attacks) <= set(self._known)):
            raise InputError(
                f"attacks is {self.attacks!r}; choose at least one of {', '.join(map(repr, self._known))}."
            )
        self.components  # noqa: B018

    @property
    def _known(self) -> dict[str, Component]:
        within = (self.eps, self.norm, self.seed, self.bounds)
        standard, sparse = self.version == Version.STANDARD, self.norm == "L1"
        restarts = 1 if standard and not sparse else 5
        widened = standard and sparse
        known = (
            APGD(*within, loss="ce", restarts=restarts, widened=widened),
            APGD(*within, loss="dlr", restarts=restarts),
            TargetedAPGD(*within, targets=5 if widened else 9, widened=widened),
            FAB(*within, restarts=restarts),
            TargetedFAB(*within),
            Square(*within),
        )
        return {component.label: component for component in known}

    @property
    def components(self) -> dict[str, Component]:
        """Its attacks by name, in order, with the authors' settings: each can be run alone."""
        known = self._known
        return {name: known[name] for name in self.attacks or _VERSIONS[Version(self.version)]}

    @property
    def _cascade(self) -> Cascade:
        return Cascade(tuple(self.components.values()), self.seed)

    @property
    @override
    def cost(self) -> Cost:
        return self._cascade.cost

    @property
    @override
    def label(self) -> str:
        return "AutoAttack" if self.version == Version.STANDARD else f"AutoAttack, {self.version}"

    @override
    def check(self, x: Pixels, classes: int) -> None:
        self._cascade.check(x, classes)

    @override
    def search(self, surrogate: nn.Module, judge: nn.Module, x: Pixels, y: Labels, report: Report) -> Pixels:
        """Search as `Cascade` does, with the judge that the settings name."""
        judge = averaged(surrogate) if self.judge == Judge.SURROGATE else judge
        return self._cascade.search(surrogate, judge, x, y, report)
