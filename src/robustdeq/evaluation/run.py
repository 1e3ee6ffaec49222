"""Doing an evaluation: every attempt of every column on every batch, each committed as soon as it is finished."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from robustdeq.attacks.losses import correct
from robustdeq.base.files import write_tensors
from robustdeq.base.progress import Report
from robustdeq.base.provenance import code_fingerprint, tensor_fingerprint
from robustdeq.deq.defenses import state_logits
from robustdeq.deq.modes import evaluating
from robustdeq.evaluation.attempt import Attempt, judge
from robustdeq.evaluation.protocol import (
    Column,
    Role,
)
from robustdeq.evaluation.store import Profile, Run, Store
from robustdeq.evaluation.subject import DefendedDEQ, Subject
from robustdeq.zoo.card import fingerprint

CLEAN = "clean"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All that is to be done: every attempt of every column on every batch.

    Attributes:
        subject: what is attacked.
        columns: the table's columns.
        x: the images.
        y: their labels.
        batch_size: how many images are attacked at once.
        settings: what decides the outcome besides weights, images and code; plain values.
        titles: the rows as they are to be shown.
        sources: the explicit networks that columns transfer from, by name.
        probed: on how many images, at least, columns are made that only check the attacks.
        ready_made: the key of the attempt whose adversaries are followed along the trajectory.
        adjoints: the keys of the attempts on adjoint states u_n, whose adversaries are followed as well (Fig. 4).
    """

    subject: Subject
    columns: tuple[Column, ...]
    x: Float[Tensor, "samples *image"]
    y: Int[Tensor, "samples"]
    batch_size: int
    settings: dict[str, Any]
    titles: tuple[str, ...]
    sources: Mapping[str, nn.Module] = field(default_factory=dict)
    probed: int = 0
    ready_made: str = ""
    adjoints: Mapping[str, str] = field(default_factory=dict)

    @property
    def batches(self) -> range:
        """The numbers of the batches."""
        return range(-(-len(self.x) // self.batch_size))

    def manifest(self) -> dict[str, Any]:
        """What the results belong to, and what turns them into a table."""
        return {
            "weights": fingerprint(self.subject.model),
            "data": tensor_fingerprint(self.x, self.y),
            "code": code_fingerprint(),
            "environment": {"torch": torch.__version__, "device": self.x.device.type},
            "settings": self.settings | {f"source {name}": fingerprint(net) for name, net in self.sources.items()},
            "batches": len(self.batches),
            "rows": list(self.titles),
            "searched": self.subject.rows.index(self.subject.searched),
            "ready_made": self.ready_made,
            "adjoints": dict(self.adjoints),
            "columns": [
                {
                    "name": column.name,
                    "rule": column.rule,
                    "witness": column.witness,
                    "role": column.role,
                    "attempts": [attempt.key for attempt in column.attempts],
                    "gradients": [_climbed(attempt) for attempt in column.attempts],
                    "cumulative": any(attempt.survivors for attempt in column.attempts),
                }
                for column in self.columns
            ],
        }

    def run(
        self,
        store: Store,
        batches: Iterable[int] | None = None,
        report: Report | None = None,
        adversaries: Path | None = None,
    ) -> None:
        """Do what the store does not hold yet, one attempt on one batch after the other, and commit each.

        Args:
            store: where the runs are kept.
            batches: the batches to do; all of them by default. What a batch needs does not depend on other batches.
            report: called with the share of the work that is done, weighted by its cost, and what is under way.
            adversaries: a folder for the adversaries, one safetensors file per attempt and batch; None keeps none.

        Raises:
            InputError: the images or labels cannot be used, or the store cannot be written.
        """
        work = [_Batch(self, store, batch) for batch in (self.batches if batches is None else batches)]
        progress = _Progress(self, work, report or (lambda share, what: None))
        with ExitStack() as stack:
            for module in (self.subject.model, *self.sources.values()):
                stack.enter_context(evaluating(module))
            for batch in work:
                progress.tell("clean images", batch)
                batch.clean()
            for column in self.columns:
                for attempt in column.attempts:
                    for batch in work:
                        if batch.needs(column):
                            progress.tell(column.name, batch)
                            batch.attack(attempt, adversaries, progress.within(column.name, attempt, batch))
                            progress.finish(attempt, batch)


class _Batch:
    """One batch: its images, and what has withstood every attack that counts so far."""

    def __init__(self, evaluation: Evaluation, store: Store, number: int) -> None:
        chosen = slice(number * evaluation.batch_size, (number + 1) * evaluation.batch_size)
        self.number = number
        self.evaluation = evaluation
        self.store = store
        self.x, self.y = evaluation.x[chosen], evaluation.y[chosen]
        self.standing = np.ones((len(evaluation.subject.rows), len(self.x)), dtype=bool)

    def needs(self, column: Column) -> bool:
        """Whether a column is made on this batch."""
        return column.role is not Role.PROBE or self.number * self.evaluation.batch_size < self.evaluation.probed

    def clean(self) -> None:
        """Judge the images as they are."""
        run = self.store.get(CLEAN, self.number)
        if run is None:
            begun = time.perf_counter()
            outcome = judge(self.evaluation.subject, self.x, self.y)
            run = Run(outcome, 0, time.perf_counter() - begun, self._profile(self.x))
            self.store.commit(CLEAN, self.number, run)
        self.standing &= run.outcome.standing

    def attack(self, attempt: Attempt, folder: Path | None, report: Report) -> None:
        """Make an attempt, unless the store knows its outcome already (and its adversaries are not missing)."""
        subject, run = self.evaluation.subject, self.store.get(attempt.key, self.number)
        file = None if folder is None else folder / _file_name(attempt, self.number)
        if run is None or (file is not None and not file.is_file()):
            begun = time.perf_counter()
            adversaries = attempt.adversaries(
                subject, self.evaluation.sources, self.number, self.x, self.y, self.standing, report
            )
            outcome = attempt.outcome(subject, self.x, adversaries, self.y, self.standing)
            followed = attempt.key in (self.evaluation.ready_made, *self.evaluation.adjoints.values())
            profile = self._profile(adversaries) if followed else None
            if file is not None:
                tensors = {"adversaries": adversaries, "labels": self.y}
                write_tensors(file, tensors, {"attack": attempt.key, "batch": str(self.number)})
            if run is None:
                seed = attempt.seeded(self.number).seed
                run = Run(outcome, seed, time.perf_counter() - begun, profile)
                self.store.commit(attempt.key, self.number, run)
        if any(attempt in column.attempts and column.role is not Role.PROBE for column in self.evaluation.columns):
            self.standing &= run.outcome.standing

    def _profile(self, x: Tensor) -> Profile | None:
        if not isinstance(self.evaluation.subject, DefendedDEQ):
            return None
        logits, residuals = state_logits(self.evaluation.subject.deq, x)
        accurate = torch.stack([correct(state, self.y) for state in logits], dim=1)
        return Profile(accurate.cpu().numpy(), residuals.T.double().cpu().numpy())


class _Progress:
    """How much of the work is done, by its cost in evaluations of f; attacks on survivors cost what still stands."""

    def __init__(self, evaluation: Evaluation, work: list[_Batch], report: Report) -> None:
        self._evaluation, self._work, self._report = evaluation, work, report
        self._done, self._share = 0.0, 0.0
        self._pending = {
            (attempt.key, batch.number): (attempt, batch)
            for column in evaluation.columns
            for attempt in column.attempts
            for batch in work
            if batch.needs(column)
        }
        self._costs = {attempt.key: attempt.evaluations(evaluation.subject) for attempt, _ in self._pending.values()}

    def _cost(self, attempt: Attempt, batch: _Batch) -> float:
        if not attempt.survivors:
            return self._costs[attempt.key] * len(batch.x)
        row = self._evaluation.subject.rows.index(attempt.against or self._evaluation.subject.searched)
        return self._costs[attempt.key] * float(batch.standing[row].sum())

    def finish(self, attempt: Attempt, batch: _Batch) -> None:
        """Count an attempt on a batch as done."""
        if self._pending.pop((attempt.key, batch.number), None):
            self._done += self._cost(attempt, batch)

    def tell(self, name: str, batch: _Batch, begun: float = 0.0) -> None:
        """Report where the work stands; `begun` is the cost of what is done of the attempt under way."""
        total = self._done + sum(self._cost(attempt, other) for attempt, other in self._pending.values())
        self._share = max(self._share, (self._done + begun) / total if total else 0.0)
        self._report(self._share, f"{name}, batch {batch.number + 1} of {len(self._evaluation.batches)}")

    def within(self, name: str, attempt: Attempt, batch: _Batch) -> Report:
        """What an attack of several parts reports to."""
        cost = self._cost(attempt, batch)
        return lambda share, what: self.tell(f"{name}, {what}", batch, share * cost)


def _climbed(attempt: Attempt) -> str:
    if attempt.attack.climbs is not None:
        return attempt.attack.climbs
    if attempt.gradient is not None:
        return repr(attempt.gradient)
    return repr(attempt.attack) if attempt.source is None else f"{attempt.source}'s own"


def _file_name(attempt: Attempt, batch: int) -> str:
    return f"{hashlib.sha256(attempt.key.encode()).hexdigest()[:16]}-{batch:05d}.safetensors"
