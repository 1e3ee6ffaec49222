"""Protocols on what only a DEQ has, its solve: how far it can be slowed down, and what another solver makes of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from typing_extensions import override

from robustdeq.attacks import SlowDown
from robustdeq.base.shapes import Labels, PerSample, Pixels
from robustdeq.deq import Defense, FinalState
from robustdeq.deq.defenses import as_deq
from robustdeq.deq.other_solve import OtherSolve
from robustdeq.evaluation.column import Attempt, Climbed, Column, Role, Row, Rule
from robustdeq.evaluation.diagnostics import Check, CheckVerdict
from robustdeq.evaluation.probes import Found, Probe
from robustdeq.evaluation.protocol import Estimating, Gradients, adaptive, beyond, climb
from robustdeq.solvers import Anderson, Broyden, Picard, Solver

METHODS: dict[str, type[Solver]] = {"Broyden": Broyden, "Anderson": Anderson, "Picard": Picard}


@dataclass(frozen=True)
class Solvers(Estimating):
    """Adversaries for every solve, judged under every other: other methods, fewer and more steps, another z_0."""

    name: ClassVar[str] = "solvers"
    reads_early: ClassVar[bool] = False

    @override
    def defenses(self, early: int | None) -> dict[str, Defense]:
        return {
            "as deployed": FinalState(),
            **{name: OtherSolve(name, kind) for name, kind in METHODS.items()},
            "half the steps": OtherSolve("half the steps", steps=0.5),
            "twice the steps": OtherSolve("twice the steps", steps=2.0),
            "another start": OtherSolve("another start", offset=0.1),
        }

    @override
    def titles(self, rows: Sequence[Row]) -> tuple[str, ...]:
        return tuple(row.id for row in rows)

    @override
    def columns(self, model: nn.Module, rows: Sequence[Row], gradients: Gradients) -> list[Column]:
        ready_made = climb(self.attack, model, self.estimators.ready_made(as_deq(model)))
        return [
            Column("ready-made", "ready-made", ready_made, ready_made=True),
            *(
                beyond(f"through-{row.id}", f"through {row.id}", adaptive(self.attack, [row]), Rule.EVERY)
                for row in rows
            ),
            *self.climbing(model, gradients),
        ]


class Slowness(Probe):
    """How a solve fares on images that PGD has moved so as to raise its residual."""

    name: ClassVar[str] = "solve slowed down"
    first_row_alone: ClassVar[bool] = True

    @override
    def look(self, row: Row, x: Pixels, y: Labels) -> dict[str, PerSample]:
        deq = as_deq(row.judge.deq)
        made = SlowDown(**self.attack.settings_for(SlowDown))(deq, x, y)
        found: dict[str, PerSample] = {}
        for name, images in (("", x), (", attacked", made)):
            solve = deq.solve(images)
            found |= {
                f"mean steps{name}": solve.steps.to(x.dtype),
                f"not converged{name}": (~solve.converged).to(x.dtype),
                f"diverged{name}": solve.diverged.to(x.dtype),
                f"mean residual{name}": torch.nan_to_num(solve.residuals[-1], nan=1.0),
            }
        return found

    @classmethod
    @override
    def check(cls, found: Found) -> Check:
        ((row, values),) = found.items()
        means = {name: float(numbers.mean()) for name, numbers in values.items()}
        images = len(values["mean steps"])

        def course(name: str, form: str) -> str:
            return f"{name} from {means[name]:{form}} to {means[f'{name}, attacked']:{form}}"

        said = (
            f"On {images} images the slow-down attack takes the {course('mean steps', '.1f')}, the "
            f"{course('mean residual', '.2g')}, the share {course('not converged', '.0%')}, and "
            f"{course('diverged', '.0%')}."
        )
        worse = means["diverged, attacked"] > means["diverged"]
        return Check(cls.name, CheckVerdict.FAILED if worse else CheckVerdict.PASSED, said, {row: means})


@dataclass(frozen=True)
class SlowDowns(Estimating):
    """The slow-down attack beside PGD, ready-made and through the solver, within the same ball.

    A check tells steps, residual and the shares that did not converge or diverged, clean and attacked; it fails where
    images diverge that did not before.
    """

    name: ClassVar[str] = "slow-down"
    reads_early: ClassVar[bool] = False

    @override
    def defenses(self, early: int | None) -> dict[str, Defense]:
        return {"final": FinalState()}

    @property
    @override
    def probed(self) -> int:
        return sys.maxsize

    @override
    def probes(self) -> tuple[Probe, ...]:
        return (Slowness(self.attack),)

    @override
    def columns(self, model: nn.Module, rows: Sequence[Row], gradients: Gradients) -> list[Column]:
        attack = SlowDown(**self.attack.settings_for(SlowDown))
        slow = Attempt(attack, Climbed(as_deq(model), "the model", "the model", 0))
        ready_made = climb(self.attack, model, self.estimators.ready_made(as_deq(model)))
        return [
            Column("ready-made", "ready-made", ready_made, ready_made=True),
            Column("slow-down", "slow-down", (slow,), role=Role.BEYOND, curve="slow-down attack"),
            beyond("through-final", "through the solver", adaptive(self.attack, rows), Rule.EVERY),
            *self.climbing(model, gradients),
        ]
