"""`robustdeq demo`: one small DEQ, trained the paper's way and through the solver, and what is left of each."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing import get_context, resource_tracker
from pathlib import Path
from typing import Any, cast

import torch

from robustdeq.base.files import write_text
from robustdeq.base.progress import Report, progress_bars
from robustdeq.base.statistics import wilson_interval
from robustdeq.cli.console import console, say
from robustdeq.cli.outputs import refuse_file
from robustdeq.data import load as load_data
from robustdeq.deq import DEQ, FinalState
from robustdeq.evaluation import Estimators, GridResult, Paper, measure
from robustdeq.evaluation.exhibits import FILE as EXHIBITS
from robustdeq.evaluation.exhibits import exhibits
from robustdeq.reporting import panel_table, read_run, save_drawing, save_page, terminal
from robustdeq.study import Reproduction
from robustdeq.study.beyond.overestimate import READY_MADE, panels, readings
from robustdeq.training import fit
from robustdeq.training.plan import read_plan

TRAININGS = {
    "unrolled": ("trained the paper's way", "conv-digits-unrolled"),
    "aligned": ("trained through the solver", "conv-digits-aligned"),
}
ESTIMATORS = Estimators(steps=(1,), dampings=(1.0,))
"""The paper's attacks, unrolled as the paper found strongest (Section 6.4, Fig. 3c): k = 1, λ = 1."""

KEYS = ("clean", "ready_made", "paper", "through_solver", "worst_case")
_EXHIBITED = 6


def demo(*, output: Path = Path("runs/demo"), n: int = 200, seed: int = 0, overwrite: bool = False) -> None:
    """Train one small DEQ in two ways on digits, attack both, and show what looks robust and what is.

    Args:
        output: the folder for weights, results and pictures; a demo that was interrupted there goes on.
        n: how many held-out digits are attacked, at most; there are 400.
        seed: of both trainings.
        overwrite: begin anew, and replace what an earlier demo left in the folder.
    """
    refuse_file(output)
    n = len(load_data("digits").require("test").head(n))
    titles = {name: title for name, (title, _) in TRAININGS.items()}
    tasks = {
        title: partial(_attacked, recipe, output / name, n, seed, overwrite)
        for name, (title, recipe) in TRAININGS.items()
    }
    results: dict[str, GridResult] = _in_processes(tasks)
    found = {title: readings(result) for title, result in results.items()}
    attack = read_plan(next(iter(TRAININGS.values()))[1]).recipe.validation.attack
    accuracy, *_ = panels(found, attack.steps)
    shown = Reproduction("demo", f"digits, ε = {attack.eps:g}", "what looks robust, and what is", (accuracy,))
    save_drawing(shown, output / "demo.png")
    summary = {
        name: {key: round(100 * float(stands.mean()), 1) for key, stands in zip(KEYS, found[title], strict=True)}
        | {"worst_case_interval": [100 * end for end in wilson_interval(int(found[title][-1].sum()), n)]}
        for name, title in titles.items()
    }
    write_text(output / "summary.json", json.dumps(summary | {"images": n, "seed": seed}, indent=1) + "\n")
    save_page([read_run(output / name) for name in TRAININGS], output / "report.html")
    console.print(terminal(panel_table(accuracy)))
    say(
        f"{n} held-out digits, {attack.norm} ε = {attack.eps:g}, accuracy in % with Wilson 95 % intervals. The numbers "
        f"are in {output / 'summary.json'}, the picture is {output / 'demo.png'}; all of it, to look at: "
        f"{output / 'report.html'}."
    )


def _attacked(name: str, folder: Path, n: int, seed: int, overwrite: bool, report: Report) -> GridResult:
    """Train a model, or go on with it, and attack it; what came of it is kept in its folder."""
    torch.set_num_threads(1)  # a model this small is no faster on several cores
    plan, splits = read_plan(name), load_data("digits")
    recipe = replace(plan.recipe, schedule=replace(plan.recipe.schedule, seed=seed))
    images, attack = splits.require("test").head(n), recipe.validation.attack
    torch.manual_seed(seed)
    deq = cast(DEQ, plan.build(images))
    fit(
        deq,
        splits,
        recipe,
        folder,
        lambda share, what: report(0.6 * share, f"training: {what}"),
        resume=not overwrite,
        overwrite=overwrite,
    )
    x, y = images.tensors()
    result = measure(
        deq,
        x,
        y,
        Paper(attack, ESTIMATORS),
        defenses={"final": FinalState()},
        gradients={READY_MADE: ESTIMATORS.ready_made(deq)},
        batch_size=n,
        folder=folder,
        overwrite=overwrite,
        report=lambda share, what: report(0.6 + 0.4 * share, f"attacking: {what}"),
    )
    result.save(folder / "results.json")
    exhibits(deq, x[:_EXHIBITED], y[:_EXHIBITED], images.classes, attack, ESTIMATORS).save(folder / EXHIBITS)
    return result


def _in_processes(tasks: Mapping[str, Callable[[Report], Any]]) -> dict[str, Any]:
    """Do tasks side by side, each in a process of its own, with a bar for each.

    Args:
        tasks: by title; each is given the report of its bar. Ctrl-C ends them where they report next.

    Returns:
        What each returned, by title.
    """
    context = get_context("spawn")
    with progress_bars(tasks) as reports, ExitStack() as running:
        with _deaf_to_interrupts():
            manager = running.enter_context(context.Manager())
            news, interrupted = manager.Queue(), manager.Event()
        try:
            with _deaf_to_interrupts():
                pool = running.enter_context(ProcessPoolExecutor(2, context))
                futures: dict[str, Future[Any]] = {
                    title: pool.submit(task, partial(_send, news, interrupted, title)) for title, task in tasks.items()
                }
            pending = set(futures.values())
            while pending:
                pending = wait(pending, timeout=0.2).not_done
                while not news.empty():
                    title, share, what = news.get()
                    reports[title](share, what)
            return {title: future.result() for title, future in futures.items()}
        except KeyboardInterrupt:
            interrupted.set()
            raise


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes that start within it get no Ctrl-C of their own, which would end their imports in a traceback."""
    if sys.platform == "win32":  # it has no masks
        yield
        return
    resource_tracker.ensure_running()  # it comes with the first of them, and its own start would lift the mask
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _send(news: Any, interrupted: Any, title: str, share: float, what: str) -> None:
    if interrupted.is_set():
        raise KeyboardInterrupt
    news.put((title, share, what))
