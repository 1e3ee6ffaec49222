"""Where the time of a solve and of its gradients goes, by operation."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch.profiler import ProfilerActivity
from torch.profiler import profile as profiled

from robustdeq.attacks.losses import cross_entropy
from robustdeq.deq.gradients import Phantom, SimultaneousAdjoint, ThroughSolver
from robustdeq.deq.modes import evaluating
from robustdeq.study.bench.benchmark import Bench, Measured, Setting
from robustdeq.study.panel import Drawing, Panel
from robustdeq.study.stopwatch import Side

_KINDS = {
    "convolution": ("conv",),
    "group norm": ("group_norm", "groupnorm"),
    "inner products": ("bmm", "addmm", "aten::mm", "triangular", "vector_norm"),
}
_OTHERS = "the rest"


def _kind(operation: str) -> str:
    return next((kind for kind, marks in _KINDS.items() if any(m in operation.lower() for m in marks)), _OTHERS)


def _shares(side: Side, device: torch.device) -> list[float]:
    """The share of the time of each kind of operation, in percent."""
    cuda = device.type == "cuda"
    side()
    with profiled(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU], acc_events=True) as found:
        side()
    spent = dict.fromkeys((*_KINDS, _OTHERS), 0.0)
    for event in found.key_averages():
        spent[_kind(event.key)] += event.self_device_time_total if cuda else event.self_cpu_time_total
    return [100 * time / sum(spent.values()) for time in spent.values()]


def _measure(setting: Setting) -> Measured:
    deq = setting.model()
    x, y = setting.images(deq, setting.batch)

    gradients = {
        "Phantom, 5 steps": Phantom(5, 0.5),
        "Simultaneous adjoint": SimultaneousAdjoint(),
        "Through the solver": ThroughSolver(),
    }
    loss = partial(cross_entropy, y=y)
    sides: dict[str, Side] = {"Solve": lambda: deq.solve(x)}
    sides |= {name: partial(gradient.input_gradient, deq, x, loss) for name, gradient in gradients.items()}
    shares = []
    with evaluating(deq):
        for i, (name, side) in enumerate(sides.items()):
            setting.report(i / len(sides), name)
            shares.append(_shares(side, setting.device))
    panel = Panel(
        f"share of the time, MDEQ-{setting.size}, N = {deq.solver.max_steps}, batch {setting.batch}",
        "%",
        tuple(sides),
        (*_KINDS, _OTHERS),
        np.array(shares),
        "What",
        "Operation",
        drawing=Drawing.BARS,
    )
    return Measured((panel,))


PROFILE = Bench("profile", "Where the time goes", _measure)
