"""The white-box grid: every defense against every attack (paper, Tables 1, 2, 3 and 6).

Adversaries are made once per attempt and judged on all defenses in one forward pass. A defense's robustness is the
minimum over the columns (the paper's measure); its worst case counts a sample as robust only if every column fails.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn

import robustdeq
from robustdeq.attacks import PGD, ContinuedPGD, Stages
from robustdeq.attacks.pgd import correct
from robustdeq.defenses import Defense, EarlyState, EnsembleState, FinalState, state_logits
from robustdeq.errors import InputError
from robustdeq.evaluation.attempt import Attempt, judge
from robustdeq.evaluation.diagnostics import Evidence, checks
from robustdeq.evaluation.profile import StateProfile, most_robust_state, state_profile
from robustdeq.evaluation.protocol import (
    Column,
    Estimators,
    Role,
    Rule,
    Setting,
    Strict,
    Witness,
    network_columns,
    protocol_named,
    reduction_columns,
)
from robustdeq.evaluation.result import GridResult
from robustdeq.evaluation.store import FILE, Profile, Run, Store, publish_manifest
from robustdeq.evaluation.subject import DefendedDEQ, Network, ReducedDEQ, Subject
from robustdeq.files import replace_with
from robustdeq.gradients import EntropyReduced, EntropyReduction, Gradient, Surrogate, ThroughSolver
from robustdeq.gradients.entropy import Backward
from robustdeq.models import DEQ
from robustdeq.models.deq import evaluating
from robustdeq.models.zoo import fingerprint
from robustdeq.progress import Report

CLEAN = "clean"
_UNRELATED = ("cli.py", "progress.py", "reporting", "training")


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

    @property
    def batches(self) -> range:
        """The numbers of the batches."""
        return range(-(-len(self.x) // self.batch_size))

    def manifest(self) -> dict[str, Any]:
        """What the results belong to, and what turns them into a table."""
        return {
            "weights": fingerprint(self.subject.model),
            "data": _fingerprint(self.x, self.y),
            "code": code_fingerprint(),
            "environment": {"torch": torch.__version__, "device": self.x.device.type},
            "settings": self.settings | {f"source {name}": fingerprint(net) for name, net in self.sources.items()},
            "batches": len(self.batches),
            "rows": list(self.titles),
            "searched": self.subject.rows.index(self.subject.searched),
            "ready_made": self.ready_made,
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
            for module in (*self.subject.modules, *self.sources.values()):
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
            profile = self._profile(adversaries) if attempt.key == self.evaluation.ready_made else None
            if file is not None:
                tensors = {"adversaries": adversaries.cpu().contiguous(), "labels": self.y.cpu()}
                names = {"attack": attempt.key, "batch": str(self.number)}
                replace_with(file, lambda temporary: save_file(tensors, temporary, metadata=names))
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


def assemble(store: Store) -> GridResult:
    """The table of a finished evaluation, from its store alone.

    Raises:
        InputError: it is not finished.
    """
    manifest = store.manifest
    columns, rows, batches = manifest["columns"], manifest["rows"], range(manifest["batches"])

    def gather(key: str, probe: bool = False) -> list[Run]:
        runs = [store.get(key, batch) for batch in batches]
        known = [run for run in runs if run is not None]
        if len(known) < len(runs) and not (probe and known):
            raise InputError("the evaluation is not finished; run the same command again and it goes on.")
        return known

    def standing(runs: list[Run]) -> Bool[np.ndarray, "rows n"]:
        return np.concatenate([run.outcome.standing for run in runs], axis=1)

    clean = gather(CLEAN)
    outcomes: dict[str, list[Bool[np.ndarray, "rows n"]]] = {}
    runs = {key: gather(key, column["role"] == Role.PROBE) for column in columns for key in column["attempts"]}
    errors = np.concatenate([run.outcome.errors for run in clean], axis=1)
    for column in columns:
        outcomes[column["name"]] = [standing(runs[key]) for key in column["attempts"]]
        if column["role"] != Role.PROBE:
            for key in column["attempts"]:
                errors = errors | np.concatenate([run.outcome.errors for run in runs[key]], axis=1)
    shown = [column for column in columns if column["role"] != Role.PROBE]
    table, gradients = [], []
    for column in shown:
        attempts = outcomes[column["name"]]
        if column["rule"] == Rule.EVERY:
            table.append(np.logical_and.reduce(attempts))
            gradients.append("; ".join(dict.fromkeys(column["gradients"])))
        else:
            hurt = [int(attempt[manifest["searched"]].sum()) for attempt in attempts]
            strongest = hurt.index(min(hurt))
            table.append(attempts[strongest])
            gradients.append(column["gradients"][strongest])
    result = GridResult(
        defenses=tuple(rows),
        columns=tuple(column["name"] for column in shown),
        gradients=tuple(gradients),
        beyond_paper=tuple(column["role"] != Role.PAPER for column in shown),
        clean=standing(clean),
        per_sample=np.stack(table, axis=1),
        profiles=_profiles({CLEAN: clean, "ready-made attack": runs.get(manifest["ready_made"], [])}),
        settings=manifest["settings"] | manifest["environment"],
        cumulative=tuple(column["cumulative"] for column in shown),
        errors=tuple(int(count) for count in errors.sum(axis=1)),
    )
    evidence = _evidence(manifest, runs, result)
    return result if evidence is None else replace(result, checks=checks(evidence))


def _profiles(profiled: dict[str, list[Run]]) -> dict[str, StateProfile]:
    profiles = {}
    for name, runs in profiled.items():
        batches = [run.profile for run in runs if run.profile is not None]
        if batches:
            accurate = torch.from_numpy(np.concatenate([batch.accurate for batch in batches]))
            residuals = torch.from_numpy(np.concatenate([batch.residuals for batch in batches]))
            profiles[name] = StateProfile(accurate.double().mean(dim=0).tolist(), residuals.mean(dim=0).tolist())
    return profiles


def _evidence(manifest: dict[str, Any], runs: dict[str, list[Run]], result: GridResult) -> Evidence | None:
    """What the checks of the attacks rest on, where the protocol made the attacks that they need."""
    found: dict[str, list[str]] = {}
    for column in manifest["columns"]:
        found.setdefault(column["witness"], []).extend(column["attempts"])
    if set(Witness) - set(found):
        return None
    rows = result.defenses

    def own(witness: Witness) -> dict[str, Bool[np.ndarray, "n"]]:
        """What each of several attacks, the i-th against the i-th row, found there."""
        return {
            rows[i]: np.concatenate([run.outcome.standing[i] for run in runs[key]])
            for i, key in enumerate(found[witness])
        }

    queries = [column["witness"] for column in manifest["columns"]].index(Witness.QUERIES)
    before = result.clean & result.per_sample[:, :queries].all(axis=1)
    (ready,) = found[Witness.READY_MADE]
    return Evidence(
        single=own(Witness.SINGLE),
        restarted=own(Witness.RESTARTED),
        one_step=own(Witness.ONE_STEP),
        moved={
            rows[i]: np.concatenate([run.outcome.moved for run in runs[key]])
            for i, key in enumerate(found[Witness.ONE_STEP])
        },
        unbounded=own(Witness.UNBOUNDED),
        before_queries=dict(zip(rows, before, strict=True)),
        after_queries=dict(zip(rows, before & result.per_sample[:, queries], strict=True)),
        ready_made=dict(zip(rows, np.concatenate([run.outcome.standing for run in runs[ready]], axis=1), strict=True)),
        errors=dict(zip(rows, result.errors, strict=True)),
    )


def code_fingerprint() -> str:
    """SHA-256 of the sources that decide the outcome of an evaluation."""
    package = Path(robustdeq.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        name = file.relative_to(package)
        if name.parts[0] not in _UNRELATED:
            digest.update(f"{name.as_posix()} ".encode() + file.read_bytes())
    return digest.hexdigest()


def _fingerprint(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _climbed(attempt: Attempt) -> str:
    if attempt.gradient is not None:
        return repr(attempt.gradient)
    return repr(attempt.attack) if attempt.source is None else f"{attempt.source}'s own"


def _file_name(attempt: Attempt, batch: int) -> str:
    return f"{hashlib.sha256(attempt.key.encode()).hexdigest()[:16]}-{batch:05d}.safetensors"


def deq_evaluation(
    deq: DEQ,
    x: Float[Tensor, "samples *image"],
    y: Int[Tensor, "samples"],
    protocol: str = "paper",
    attack: PGD | None = None,
    early: int | None = None,
    development: tuple[Tensor, Tensor] | None = None,
    estimators: Estimators | None = None,
    batch_size: int = 128,
    report: Report | None = None,
    strict: Strict | None = None,
    sources: Mapping[str, nn.Module] | None = None,
) -> Evaluation:
    """What is to be done to measure a DEQ under its defenses; arguments and errors as for `white_box_grid`."""
    make_columns = protocol_named(protocol)
    attack = PGD() if attack is None else attack
    estimators = Estimators() if estimators is None else estimators
    strict = Strict() if strict is None else strict
    _check(attack, x, y, batch_size)
    if early is None and development is None:
        raise InputError("the early-state defense needs its state; give early=n, or a development set to choose it on.")
    if early is None:
        assert development is not None
        (report or (lambda share, what: None))(0.0, "choosing the early state")
        early = choose_early_state(deq, *development, attack, estimators.final, batch_size)
    defenses: dict[str, Defense] = {"final": FinalState(), "early": EarlyState(early), "ensemble": EnsembleState()}
    true: dict[str, Gradient] = {name: ThroughSolver(defense) for name, defense in defenses.items()}
    sources = {} if sources is None else sources
    columns = make_columns(Setting(deq.last_state, true, attack, estimators, strict, tuple(sources)))
    settings = {
        "protocol": protocol,
        "attack": asdict(attack),
        "early": early,
        "solver": repr(deq.solver),
        "tail": repr(deq.tail),
        "estimators": repr(estimators),
        "batch_size": batch_size,
    }
    return Evaluation(
        subject=DefendedDEQ(deq, defenses),
        columns=tuple(columns),
        x=x,
        y=y,
        batch_size=batch_size,
        settings=settings | ({"strict": repr(strict)} if protocol == "strict" else {}),
        titles=tuple(f"early (z_{early})" if name == "early" else name for name in defenses),
        sources=sources,
        probed=strict.probe_images,
        ready_made=Attempt(attack, estimators.final).key,
    )


def network_evaluation(
    network: nn.Module,
    x: Float[Tensor, "samples *image"],
    y: Int[Tensor, "samples"],
    attack: PGD | None = None,
    batch_size: int = 128,
) -> Evaluation:
    """What is to be done to measure an explicit network: PGD, and the standard AutoAttack on what withstands it.

    Args:
        network: any module x → logits.
        x: the images, pixels within the attack's bounds.
        y: their labels.
        attack: PGD and the threat model.
        batch_size: how many images are attacked at once.

    Raises:
        InputError: x or y cannot be used.
    """
    attack = PGD() if attack is None else attack
    _check(attack, x, y, batch_size)
    return Evaluation(
        subject=Network(network),
        columns=tuple(network_columns(attack, "network")),
        x=x,
        y=y,
        batch_size=batch_size,
        settings={"protocol": "network", "attack": asdict(attack), "batch_size": batch_size},
        titles=("as it is",),
    )


def reduction_evaluation(
    deq: DEQ,
    x: Float[Tensor, "samples *image"],
    y: Int[Tensor, "samples"],
    reduction: EntropyReduction,
    attack: PGD | None = None,
    estimators: Estimators | None = None,
    batch_size: int = 128,
) -> Evaluation:
    """What is to be done to measure input entropy reduction, attacked as published and adaptively.

    The adaptive attacks differentiate the solve and the inner steps; straight over the inner steps; over a single inner
    step; and that again from where the attacks on the bare model ended.

    Args:
        deq: the model.
        x: the images, pixels within the attack's bounds.
        y: their labels.
        reduction: the settings of the defense.
        attack: PGD and the threat model.
        estimators: the settings of the ready-made attack.
        batch_size: how many images are attacked at once.

    Raises:
        InputError: x or y cannot be used.
    """
    attack = PGD() if attack is None else attack
    estimators = Estimators() if estimators is None else estimators
    _check(attack, x, y, batch_size)
    subject = ReducedDEQ(deq, reduction)
    straight = Backward.STRAIGHT_THROUGH
    shortened = EntropyReduced(deq, replace(reduction, steps=min(reduction.steps, 1)), straight)
    bare: dict[str, Gradient] = {"ready-made": estimators.final, "through the solver": ThroughSolver(FinalState())}
    continued = ContinuedPGD(**{setting.name: getattr(attack, setting.name) for setting in fields(attack)})
    adaptive: dict[str, tuple[PGD, nn.Module]] = {
        "through the inner steps": (attack, EntropyReduced(deq, reduction)),
        "straight-through": (attack, EntropyReduced(deq, reduction, straight)),
        "one inner step": (attack, shortened),
        "one inner step, from the bare model's adversaries": (
            continued,
            Stages([Surrogate(deq, bare["through the solver"]), shortened]),
        ),
    }
    attacks = {name: own for name, (own, _) in adaptive.items()}
    return Evaluation(
        subject=subject,
        columns=tuple(reduction_columns(attack, bare, attacks, subject.rows[1])),
        x=x,
        y=y,
        batch_size=batch_size,
        settings={
            "protocol": "entropy",
            "attack": asdict(attack),
            "reduction": repr(reduction),
            "estimators": repr(estimators),
            "solver": repr(deq.solver),
            "tail": repr(deq.tail),
            "batch_size": batch_size,
        },
        titles=subject.rows,
        sources={name: module for name, (_, module) in adaptive.items()},
    )


def _check(attack: PGD, x: Tensor, y: Tensor, batch_size: int) -> None:
    attack.threat.check(x, y)
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; attack at least 1 image at once.")


def white_box_grid(
    deq: DEQ,
    x: Float[Tensor, "samples *image"],
    y: Int[Tensor, "samples"],
    protocol: str = "paper",
    attack: PGD | None = None,
    early: int | None = None,
    development: tuple[Tensor, Tensor] | None = None,
    estimators: Estimators | None = None,
    batch_size: int = 128,
    report: Report | None = None,
    strict: Strict | None = None,
    sources: Mapping[str, nn.Module] | None = None,
    folder: Path | None = None,
) -> GridResult:
    """Attack a model through every gradient and judge it under every defense.

    Args:
        deq: the model; it is evaluated in eval mode and left as it was.
        x: the images, pixels within the attack's bounds.
        y: their labels.
        protocol: `"paper"`, `"strict"`, `"ready-made"` (Table 1) or `"autoattack"` (Table 3).
        attack: what climbs the gradients; PGD-10 with ε = 8/255 and step 2/255 by default.
        early: the n of the early-state defense. None chooses, on `development`, the intermediate state that is most
            robust under the ready-made attack (paper, §5.2).
        development: images and labels apart from x, only needed when `early` is None.
        estimators: the settings of the estimated gradients.
        batch_size: how many images are attacked at once.
        report: called with the share of the work that is done, weighted by its cost, and what is under way.
        strict: how hard the strict protocol tries.
        sources: explicit networks whose adversaries the strict protocol transfers, by name.
        folder: where every finished attack on a batch is kept at once, so that a run that was interrupted goes on
            from there; None keeps results in memory only.

    Returns:
        The outcome of every sample.

    Raises:
        InputError: x or y cannot be used, there is no such protocol or state, nothing to choose `early` on, or the
            folder holds results of something else.
    """
    evaluation = deq_evaluation(
        deq, x, y, protocol, attack, early, development, estimators, batch_size, report, strict, sources
    )
    with Store.create(None if folder is None else folder / FILE, evaluation.manifest()) as store:
        publish_manifest(store)
        evaluation.run(store, report=report)
        if report is not None:
            report(1.0, "done")
        return assemble(store)


def choose_early_state(
    deq: DEQ,
    x: Float[Tensor, "samples *image"],
    y: Int[Tensor, "samples"],
    attack: PGD,
    gradient: Gradient,
    batch_size: int = 128,
) -> int:
    """The intermediate state that is most robust, on a development set, under the ready-made attack (paper, §5.2).

    Args:
        deq: the model.
        x: the images of the development set.
        y: their labels.
        attack: the ready-made attack.
        gradient: the gradient it climbs, of the final state.
        batch_size: how many images are attacked at once.
    """
    with evaluating(deq):
        surrogate = Surrogate(deq, gradient)
        parts = zip(x.split(batch_size), y.split(batch_size), strict=True)
        adversaries = [
            replace(attack, seed=attack.seed + i)(surrogate, images, labels) for i, (images, labels) in enumerate(parts)
        ]
        return most_robust_state(state_profile(deq, torch.cat(adversaries), y, batch_size))
