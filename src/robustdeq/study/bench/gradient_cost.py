"""What each gradient costs: time, evaluations of f and memory; and how much a whole sweep costs over its last state."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch.nn import functional as F

from robustdeq.attacks.losses import cross_entropy
from robustdeq.deq.gradients import (
    SHINE,
    Ensemble,
    Exact,
    JacobianFree,
    Neumann,
    Phantom,
    SimultaneousAdjoint,
    ThroughSolver,
    UnrolledIntermediate,
)
from robustdeq.deq.modes import evaluating
from robustdeq.study.bench.benchmark import Bench, Claim, Measured, Setting, times_panel
from robustdeq.study.counting import counted
from robustdeq.study.panel import Drawing, Panel, bars
from robustdeq.study.stopwatch import Side, interleaved, peak_bytes
from robustdeq.zoo import MDEQ, resnet18

_STEPS = (8, 16, 32)
_LAST, _ALL, _SUM = "Simultaneous adjoint, last state", "Simultaneous adjoint, all states", "Their ensemble"
_PHANTOM, _TRUE, _CHECKPOINTED = "Phantom, 5 steps", "Through the solver", "Through the solver, f checkpointed"
_COMPARED = (_PHANTOM, _TRUE, _CHECKPOINTED)


def _sides(deq: MDEQ, x: torch.Tensor, y: torch.Tensor) -> dict[str, Side]:
    loss = partial(cross_entropy, y=y)
    adjoint, unrolled = SimultaneousAdjoint(), UnrolledIntermediate(steps=1)
    gradients = {
        "Jacobian-free": JacobianFree(),
        "SHINE": SHINE(),
        _PHANTOM: Phantom(5, 0.5),
        "Neumann, 5 steps": Neumann(5, 0.5),
        "Exact, 30 steps": Exact(max_steps=30, tol=0.0),
        _LAST: adjoint,
        _SUM: Ensemble(adjoint),
        "Unrolled intermediates, k = 1, ensemble": Ensemble(unrolled),
        _TRUE: ThroughSolver(),
        _CHECKPOINTED: ThroughSolver(checkpoint=True),
    }
    sides: dict[str, Side] = {name: partial(g.input_gradient, deq, x, loss) for name, g in gradients.items()}
    families = {_ALL: adjoint, "Unrolled intermediates, k = 1, all states": unrolled}
    return sides | {name: partial(family.input_gradients, deq, x, loss) for name, family in families.items()}


def _measure(setting: Setting) -> Measured:
    deq = setting.model()
    x, y = setting.images(deq, setting.batch)
    sides = _sides(deq, x, y)
    network = resnet18(in_channels=x.shape[1]).to(setting.device).eval()

    def explicit() -> None:
        leaf = x.clone().requires_grad_()
        torch.autograd.grad(F.cross_entropy(network(leaf), y), leaf)

    with evaluating(deq), evaluating(network):
        times = interleaved(sides | {"ResNet-18": explicit}, setting.repetitions, setting.report)
        peaks = {name: peak_bytes(side) for name, side in sides.items()}
        counts, growing = [], []
        for side in sides.values():
            with counted(deq) as found:
                side()
            counts.append((found.forward / setting.batch, found.backward / setting.batch))
        for steps in _STEPS:
            longer = _sides(deq.with_settings(solver=replace(deq.solver, max_steps=steps, tol=0.0)), x, y)
            growing.append([peak_bytes(longer[name]) / 2**20 for name in _COMPARED])
    panels = (
        times_panel(f"one input gradient, MDEQ-{setting.size}, batch {setting.batch}", times, "Gradient"),
        Panel(
            "evaluations of f and products with its Jacobian, per image",
            "f",
            tuple(sides),
            ("evaluations", "products"),
            np.array(counts),
            row_axis="Gradient",
            drawing=Drawing.BARS,
        ),
        bars("peak memory of tensors", "MiB", "memory", peaks, "Gradient", scale=2**-20),
        Panel(
            "peak memory of tensors by solver steps",
            "MiB",
            _COMPARED,
            tuple(f"N = {steps}" for steps in _STEPS),
            np.array(growing).T,
            row_axis="Gradient",
            drawing=Drawing.CURVES,
        ),
    )
    subject = f"MDEQ-{setting.size}, batch {setting.batch}: "
    states = (deq.solver.max_steps + 1) * deq.solve(x).initial.nbytes
    bounds = (
        ("the adjoint gradients at all states over the last alone", _ALL, _LAST, 1.4),
        ("their ensemble over the last alone", _SUM, _LAST, 1.4),
        ("gradient through the solver over phantom gradient", _TRUE, _PHANTOM, 2.0),
        ("the same with f checkpointed", _CHECKPOINTED, _PHANTOM, 2.6),
    )
    claims = [Claim.of_times(subject + what, times[over], times[under], bound) for what, over, under, bound in bounds]
    memory = f"{subject}peak memory through the solver, f checkpointed, over the phantom's plus the states"
    claims.append(Claim.of_counts(memory, peaks[_CHECKPOINTED], peaks[_PHANTOM] + states, 1.0))
    return Measured(panels, tuple(claims))


GRADIENTS = Bench("gradients", "The cost of every gradient", _measure)
