"""Where the time of a solve and of its gradients goes, by operation."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F
from torch.profiler import ProfilerActivity
from torch.profiler import profile as profiled

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

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits, y, reduction="none")

    gradients = {
        "Phantom, 5 steps": Phantom(5, 0.5),
        "Simultaneous adjoint": SimultaneousAdjoint(),
        "Through the solver": ThroughSolver(),
    }
    sides: dict[str, Side] = {"Solve": lambda: deq.solve(x)}
    for name, gradient in gradients.items():
        sides[name] = lambda gradient=gradient: gradient.input_gradient(deq, x, loss)
    shares = []
    with evaluating(deq):
        for i, (name, side) in enumerate(sides.items()):
            setting.report(i / len(sides), name)
            shares.append(_shares(side, setting.device))
    return Measured(
        (
            Panel(
                f"share of the time, MDEQ-{setting.size}, N = {deq.solver.max_steps}, batch {setting.batch}",
                "%",
                tuple(sides),
                (*_KINDS, _OTHERS),
                np.array(shares),
                row_axis="What",
                column_axis="Operation",
                drawing=Drawing.BARS,
            ),
        )
    )


PROFILE = Bench("profile", "Where the time goes", _measure)
