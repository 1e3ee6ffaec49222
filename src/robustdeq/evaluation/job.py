"""A job: every attempt of every column on every batch, each committed as soon as it is finished.

The images that an attempt attacks are packed, whatever batch they are of, so that what is attacked at once is as much
as a batch: the adversary of an image does not depend on those beside it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor, nn

from robustdeq.attacks.losses import correct
from robustdeq.base.progress import Report, silent
from robustdeq.base.provenance import code_fingerprint, tensor_fingerprint
from robustdeq.base.shapes import Labels, Pixels
from robustdeq.base.tensors import write_tensors
from robustdeq.deq import DEQ
from robustdeq.deq.defenses import defended_logits
from robustdeq.deq.modes import evaluating
from robustdeq.evaluation.column import Attempt, Column, Row
from robustdeq.evaluation.early import states_of
from robustdeq.evaluation.probes import Probe
from robustdeq.evaluation.store import Finished, Outcome, StatesOfBatch, Store
from robustdeq.zoo.card import fingerprint

ADVERSARIES = "adversaries"
"""The folder, in that of an evaluation, where its adversaries are kept."""
CLEAN = "clean"


@dataclass(frozen=True, eq=False)
class Job:
    """All that is to be done.

    Attributes:
        model: what is attacked.
        rows: the model behind each defense.
        titles: what the table calls the rows.
        columns: the table's columns.
        x: the images.
        y: their labels.
        batch_size: how many images are attacked at once.
        settings: what decides the outcome besides weights, images and code; plain values.
        probed: on how many images, at least, columns and probes are made that only check the attacks.
        probes: what is looked at there.
    """

    model: nn.Module
    rows: tuple[Row, ...]
    titles: tuple[str, ...]
    columns: tuple[Column, ...]
    x: Pixels
    y: Labels
    batch_size: int
    settings: dict[str, Any]
    probed: int = 0
    probes: tuple[Probe, ...] = ()

    @property
    def batches(self) -> range:
        """The numbers of the batches."""
        return range(-(-len(self.x) // self.batch_size))

    @property
    def probing(self) -> range:
        """The numbers of those on which the attacks themselves are checked."""
        return self.batches[: -(-self.probed // self.batch_size)]

    def made_on(self, column: Column) -> range:
        """The numbers of those on which a column is made."""
        return self.batches if column.role.shown else self.probing

    @property
    def searched(self) -> int:
        """The row on which the strongest of several candidates is searched: the one called early, else the first."""
        ids = [row.id for row in self.rows]
        return ids.index("early") if "early" in ids else 0

    @cached_property
    def followed(self) -> set[str]:
        """The keys of the attempts whose adversaries are followed along the trajectory."""
        columns = (column for column in self.columns if column.ready_made or column.curve or column.followed)
        return {attempt.key for column in columns for attempt in column.attempts}

    @cached_property
    def counting(self) -> set[str]:
        """The keys of the attempts whose adversaries count in the worst case."""
        return {attempt.key for column in self.columns if column.role.counts for attempt in column.attempts}

    def manifest(self) -> dict[str, Any]:
        """What the results belong to, and what turns them into a table."""
        return {
            "weights": fingerprint(self.model),
            "data": tensor_fingerprint(self.x, self.y),
            "code": code_fingerprint(),
            "environment": {"torch": torch.__version__, "device": self.x.device.type},
            "settings": self.settings,
            "batches": len(self.batches),
            "rows": [
                {
                    "id": row.id,
                    "title": title,
                    "operations": [*map(str, row.operations)],
                    "unwatched": row.unwatched,
                }
                for row, title in zip(self.rows, self.titles, strict=True)
            ],
            "searched": self.searched,
            "adjoints": {
                name: attempt.key
                for column in self.columns
                for name, attempt in zip(column.followed, column.attempts, strict=False)
            },
            "missing": [[column.label, column.missing] for column in self.columns if column.missing],
            "columns": [
                {
                    **{name: getattr(column, name) for name in ("id", "label", "rule", "role", "ready_made", "curve")},
                    "batches": len(self.made_on(column)),
                    "cumulative": any(attempt.survivors for attempt in column.attempts),
                    "attempts": [
                        {"key": attempt.key, "climbs": attempt.label, "settings": attempt.description}
                        for attempt in column.attempts
                    ],
                }
                for column in self.columns
                if self.made_on(column) and not column.missing
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
            store: where the outcomes are kept.
            batches: the batches to do; all of them by default. What a batch needs does not depend on other batches.
            report: called with the share of the work that is done, weighted by its cost, and what is under way.
            adversaries: a folder for the adversaries, one safetensors file per attempt and batch, and for the images
                themselves; None keeps none.

        Raises:
            InputError: the images or labels cannot be used, or the store cannot be written.
        """
        work = [_Batch(self, store, batch, adversaries) for batch in (self.batches if batches is None else batches)]
        progress = _Progress(self, work, report or silent)
        with ExitStack() as stack:
            climbed = {attempt.climbs.module for column in self.columns for attempt in column.attempts}
            for module in (self.model, *climbed):
                stack.enter_context(evaluating(module.to(self.x.device)))
            for batch in work:
                progress.tell("clean images", batch)
                batch.clean()
                batch.probe()
            for column in self.columns:
                needing = [batch for batch in work if batch.needs(column)]
                for attempt in column.attempts:
                    self._attack(column.label, attempt, needing, progress)

    def _attack(self, name: str, attempt: Attempt, batches: Sequence[_Batch], progress: _Progress) -> None:
        """Make an attempt on some batches, and finish each as soon as all of its images have been attacked."""
        runs = [_OnBatch(batch, attempt) for batch in batches]
        for run in runs:
            progress.tell(name, run.batch)
            run.finish(progress)
        for pack in _packs(runs, self.batch_size):
            begun, parts = time.perf_counter(), [(run.batch.x[i], run.batch.y[i]) for run, i in pack]
            x, y = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
            adversaries = adversaries_of(attempt, x, y, progress.within(name, attempt, pack[0][0].batch, len(x)))
            seconds = (time.perf_counter() - begun) / len(x)
            progress.climbed += len(x)
            for (run, i), made in zip(pack, adversaries.split([len(i) for _, i in pack]), strict=True):
                run.take(i, made, seconds)
                run.finish(progress)


def adversaries_file(folder: Path, attempt: str, batch: int) -> Path:
    """Where the adversaries are kept that an attempt, by its key, made of a batch."""
    return folder / f"{attempt}-{batch:05d}.safetensors"


def adversaries_of(attempt: Attempt, x: Pixels, y: Labels, report: Report) -> Pixels:
    """What an attempt makes of images x with labels y; it reports the share that is done and what comes next.

    Raises:
        InputError: one of them is outside the threat model.
    """
    climbed, judge = attempt.climbs.module, None if attempt.against is None else attempt.against.judge
    adversaries = attempt.attack(climbed, x, y, None if judge is climbed else judge, report)
    attempt.attack.threat.check_adversaries(adversaries, x)
    return adversaries


def judge(model: nn.Module, rows: Sequence[Row], images: Pixels, adversaries: Pixels, y: Labels) -> Outcome:
    """What every row of a table makes of the adversaries of images with labels y: the worst of all its judgements."""
    standing = torch.ones(len(rows), len(y), dtype=torch.bool, device=y.device)
    errors = torch.zeros_like(standing)
    for reading in range(max(row.defense.judgements for row in rows)):
        asked = [i for i, row in enumerate(rows) if row.defense.judgements > reading]
        logits = defended_logits(model, adversaries, [rows[i].defense for i in asked])
        for i, found in zip(asked, logits, strict=True):
            standing[i] &= correct(found, y)
            errors[i] |= ~found.isfinite().all(dim=1)
    moved = (adversaries != images).flatten(1).any(dim=1)
    return Outcome(standing.cpu().numpy(), errors.cpu().numpy(), moved.cpu().numpy())


class _Batch:
    """One batch: its images, and what has withstood every attack that counts so far."""

    def __init__(self, job: Job, store: Store, number: int, folder: Path | None) -> None:
        chosen = slice(number * job.batch_size, (number + 1) * job.batch_size)
        self.number = number
        self.job = job
        self.store = store
        self._folder = folder
        self.x, self.y = job.x[chosen], job.y[chosen]
        self.standing = np.ones((len(job.rows), len(self.x)), dtype=bool)
        self.survivors = len(self.x)

    def needs(self, column: Column) -> bool:
        """Whether a column is made on this batch."""
        return self.number in self.job.made_on(column)

    def lacks(self, key: str) -> bool:
        """Whether the adversaries of an attempt, by its key, are to be kept and are not there."""
        return self._folder is not None and not adversaries_file(self._folder, key, self.number).is_file()

    def keep(self, key: str, adversaries: Pixels) -> None:
        """Write down the adversaries of an attempt, by its key, where they are to be kept."""
        if self._folder is not None:
            tensors = {"adversaries": adversaries, "labels": self.y}
            about = {"attack": key, "batch": str(self.number)}
            write_tensors(adversaries_file(self._folder, key, self.number), tensors, about)

    def attacked(self, attempt: Attempt) -> Bool[np.ndarray, "batch"]:
        """Which images an attempt attacks: all, or those that stand behind any of the defenses."""
        return np.logical_or.reduce(self.standing) if attempt.survivors else np.ones(len(self.x), dtype=bool)

    def meet(self, outcome: Outcome) -> None:
        """Take what still stands, and how many images do behind any of the defenses, from an attempt that counts."""
        self.standing &= outcome.standing
        self.survivors = int(np.logical_or.reduce(self.standing).sum())

    def clean(self) -> None:
        """Judge the images as they are."""
        found = self.store.get(CLEAN, self.number)
        if found is None:
            begun = time.perf_counter()
            outcome = judge(self.job.model, self.job.rows, self.x, self.x, self.y)
            found = Finished(outcome, time.perf_counter() - begun, self._states(self.x))
            self.store.commit(CLEAN, self.number, found)
        if self.lacks(CLEAN):
            self.keep(CLEAN, self.x)
        self.meet(found.outcome)

    def probe(self) -> None:
        """Look at all that only checks the attacks, where this is one of the batches for it."""
        for probe in self.job.probes if self.number in self.job.probing else ():
            if (probe.name, self.number) not in self.store.notes:
                rows = self.job.rows[:1] if probe.first_row_alone else self.job.rows
                found = {row.id: probe.look(row, self.x, self.y.long()) for row in rows}
                plain = {row: {name: values.tolist() for name, values in its.items()} for row, its in found.items()}
                self.store.note(probe.name, self.number, plain)

    def finish(
        self, attempt: Attempt, attacked: Bool[np.ndarray, "batch"], adversaries: Pixels, seconds: float
    ) -> None:
        """Judge the adversaries that an attempt made of the images that it attacked, and commit what became of all."""
        begun = time.perf_counter()
        job, chosen = self.job, torch.from_numpy(attacked).to(self.x.device)
        standing = self.standing.copy() if attempt.survivors else np.ones_like(self.standing)
        outcome = Outcome(standing, np.zeros_like(standing), np.zeros_like(attacked))
        if attacked.any():
            found = judge(job.model, job.rows, self.x[chosen], adversaries[chosen], self.y[chosen])
            outcome.standing[:, attacked] &= found.standing
            outcome.errors[:, attacked], outcome.moved[attacked] = found.errors, found.moved
        states = self._states(adversaries) if attempt.key in self.job.followed else None
        made = Finished(outcome, seconds + time.perf_counter() - begun, states)
        self.store.commit(attempt.key, self.number, made, partial(self.keep, attempt.key, adversaries))

    def _states(self, x: Tensor) -> StatesOfBatch | None:
        return states_of(self.job.model, x, self.y) if isinstance(self.job.model, DEQ) else None


class _OnBatch:
    """An attempt on a batch under way, or nothing left of it where its outcome is known (and its adversaries kept).

    Attributes:
        batch: the batch.
        left: the indices of the images that are still to be attacked.

    Args:
        batch: the batch.
        attempt: the attempt.
    """

    def __init__(self, batch: _Batch, attempt: Attempt) -> None:
        self.batch, self._attempt = batch, attempt
        self._known = batch.store.get(attempt.key, batch.number)
        self._made = self._known is None or batch.lacks(attempt.key)
        self._attacked = batch.attacked(attempt)
        self.left = torch.from_numpy((self._attacked & self._made).nonzero()[0]).to(batch.x.device)
        self._parts: list[tuple[Tensor, Pixels]] = []
        self._waiting, self._seconds = len(self.left), 0.0

    def take(self, chosen: Tensor, adversaries: Pixels, seconds: float) -> None:
        """Take the adversaries of some images, each of which took so many seconds."""
        self._parts.append((chosen, adversaries))
        self._waiting -= len(chosen)
        self._seconds += seconds * len(chosen)

    def finish(self, progress: _Progress) -> None:
        """Once all images have been attacked: write down the adversaries, and what became of them."""
        if self._waiting:
            return
        batch, attempt = self.batch, self._attempt
        if self._known is None:
            batch.finish(attempt, self._attacked, self._put_together(), self._seconds)
        elif self._made:
            batch.keep(attempt.key, self._put_together())
        progress.finish(attempt, batch)
        found = batch.store.get(attempt.key, batch.number)
        if found is not None and attempt.key in batch.job.counting:
            batch.meet(found.outcome)

    def _put_together(self) -> Pixels:
        """The adversaries of all images, kept here no longer; an image that was not attacked is its own."""
        adversaries = self.batch.x.clone()
        for chosen, made in self._parts:
            adversaries[chosen] = made
        self._parts.clear()
        return adversaries


def _packs(runs: Sequence[_OnBatch], size: int) -> Iterator[list[tuple[_OnBatch, Tensor]]]:
    """The images that are to be attacked, so many at once, in order: whose they are, and their indices there."""
    pack: list[tuple[_OnBatch, Tensor]] = []
    room = size
    for run in runs:
        left = run.left
        while len(left):
            pack.append((run, left[:room]))
            left, room = left[room:], room - len(pack[-1][1])
            if not room:
                yield pack
                pack, room = [], size
    if pack:
        yield pack


class _Progress:
    """How much of the work is done, by its cost in evaluations of f; attacks on survivors cost what still stands.

    Attributes:
        climbed: how many images of batches that are not finished the attempt under way has attacked.
    """

    def __init__(self, job: Job, work: list[_Batch], report: Report) -> None:
        self._job, self._report = job, report
        self._done, self._share = 0.0, 0.0
        self.climbed = 0
        judging = max(row.cost for row in job.rows)
        self._work = work
        self._pending = {
            (attempt.key, batch.number): (attempt, batch)
            for column in job.columns
            for attempt in column.attempts
            for batch in work
            if batch.needs(column)
        }
        self._costs = {attempt.key: attempt.evaluations(judging) for attempt, _ in self._pending.values()}
        self._of_survivors = {batch.number: 0.0 for batch in work}
        self._of_all = 0.0
        for attempt, batch in self._pending.values():
            self._owe(attempt, batch, self._costs[attempt.key])

    def _owe(self, attempt: Attempt, batch: _Batch, cost: float) -> None:
        """Add the cost of an attempt on an image to what is left of a batch."""
        if attempt.survivors:
            self._of_survivors[batch.number] += cost
        else:
            self._of_all += cost * len(batch.x)

    def finish(self, attempt: Attempt, batch: _Batch) -> None:
        """Count an attempt on a batch as done."""
        if self._pending.pop((attempt.key, batch.number), None):
            attacked, cost = batch.survivors if attempt.survivors else len(batch.x), self._costs[attempt.key]
            self._owe(attempt, batch, -cost)
            self._done += cost * attacked
            self.climbed = max(self.climbed - attacked, 0)

    def tell(self, name: str, batch: _Batch, begun: float = 0.0) -> None:
        """Report where the work stands; `begun` is the cost of what is done of the attempt under way."""
        left = self._of_all + sum(self._of_survivors[other.number] * other.survivors for other in self._work)
        total = self._done + max(left, begun)
        self._share = max(self._share, (self._done + begun) / total if total else 0.0)
        self._report(self._share, f"{name}, batch {batch.number + 1} of {len(self._job.batches)}")

    def within(self, name: str, attempt: Attempt, batch: _Batch, images: int) -> Report:
        """What an attack of several parts reports to, on so many images, the first of them of a batch."""
        cost = self._costs[attempt.key]
        return lambda share, what: self.tell(f"{name}, {what}", batch, cost * (self.climbed + share * images))
