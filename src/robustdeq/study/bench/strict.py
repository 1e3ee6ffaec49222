"""What every attack of the strict protocol costs, on a model that keeps 40 % of its accuracy."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import compress

from robustdeq.attacks import PGD, StoppingPGD
from robustdeq.evaluation import Store, Strict
from robustdeq.evaluation.column import Role
from robustdeq.evaluation.measure import plan
from robustdeq.study.bench.benchmark import Bench, Measured, Setting
from robustdeq.study.bench.victim import ROBUST, victim
from robustdeq.study.counting import counted
from robustdeq.study.panel import Panel, bars


def _measure(setting: Setting) -> Measured:
    evaluations, seconds = [], []
    with victim(setting, setting.batch, StoppingPGD(steps=10)) as v:
        attack = PGD(v.attack.eps, v.attack.step_size, v.attack.steps)
        whole = plan(v.deq, v.x, v.y, Strict(attack), early=1, batch_size=setting.batch)
        names = ["clean images and probes", *(column.label for column in whole.columns)]
        with Store.begin(None, whole.manifest()) as store:
            for number, name in enumerate(names):
                setting.report(number / len(names), name)
                begun = time.perf_counter()
                with counted(v.deq) as found:
                    replace(whole, columns=whole.columns[:number]).run(store)
                evaluations.append(found.total / setting.batch)
                seconds.append((time.perf_counter() - begun) / setting.batch)
    papers = [False, *(column.role is Role.PAPER for column in whole.columns)]
    images = f"{setting.batch} images of which about {ROBUST:.0%} withstand one run of PGD"
    title = f"the strict protocol, MDEQ-{setting.size}, {images}"

    def panel(what: str, unit: str, heading: str, costs: list[float]) -> Panel:
        sides = {name[0].upper() + name[1:]: cost for name, cost in zip(names, costs, strict=True)}
        sides |= {"The paper's columns": sum(compress(costs, papers)), "Everything": sum(costs)}
        return bars(f"{title}: {what}", unit, heading, sides, "Attack")

    counts = panel("evaluations of f and products with its Jacobian, per image", "f", "cost", evaluations)
    return Measured((counts, panel("time per image", "s", "time", seconds)))


STRICT = Bench("strict", "The cost of every attack of the strict protocol", _measure)
