"""The one call that measures: every defense against every attack of a protocol (paper, Tables 1, 2, 3 and 6).

Adversaries are made once per attempt and judged on all defenses together. A defense's robustness is the minimum over
the columns (the paper's measure); its worst case counts a sample as robust only if every adversary ever made fails.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from robustdeq.attacks import PGD, Attack
from robustdeq.attacks.losses import named
from robustdeq.base.errors import InputError, check_counts, check_made, look_up, require
from robustdeq.base.occupancy import alone_in, beside_others_in
from robustdeq.base.progress import Report, silent, told
from robustdeq.base.provenance import describe
from robustdeq.base.shapes import Labels, Pixels
from robustdeq.certificates import Certified
from robustdeq.deq import DEQ, AsIs, Defense, FinalState
from robustdeq.deq.defenses import as_deq
from robustdeq.deq.gradients import own_gradient
from robustdeq.deq.modes import evaluating
from robustdeq.evaluation import distributed
from robustdeq.evaluation.assemble import assemble
from robustdeq.evaluation.bracket import bracketed, guaranteed
from robustdeq.evaluation.column import Row, Rule
from robustdeq.evaluation.early import choose_early_state
from robustdeq.evaluation.job import ADVERSARIES, Job
from robustdeq.evaluation.protocol import (
    Estimators,
    Gradients,
    Network,
    Protocol,
    Strict,
    WorstCase,
    adaptive,
    beyond,
)
from robustdeq.evaluation.protocols import protocol_named
from robustdeq.evaluation.result import SUMMARIES, GridResult
from robustdeq.evaluation.store import Store, discard

if TYPE_CHECKING:
    from lightning.fabric import Fabric


def measure(
    model: nn.Module,
    x: Pixels,
    y: Labels,
    protocol: str | Protocol | None = None,
    *,
    rows: Sequence[str] | None = None,
    defenses: Mapping[str, Defense] | None = None,
    beside: Mapping[str, Defense] | None = None,
    gradients: Gradients | None = None,
    attacks: Mapping[str, Attack] | None = None,
    early: int | None = None,
    development: tuple[Tensor, Tensor] | None = None,
    batch_size: int = 128,
    folder: str | Path | None = None,
    overwrite: bool = False,
    adversaries: bool = False,
    certified: Certified | None = None,
    fabric: Fabric | None = None,
    report: Report | None = None,
) -> GridResult:
    """Attack a model as a protocol says, judge it behind every defense, and put the outcomes together.

    Args:
        model: a DEQ, or any module x → logits; it is evaluated in eval mode and left as it was.
        x: the images or features, within the attack's bounds.
        y: their labels.
        protocol: the attacks and their settings, or the name of a protocol with its own, as for `white_box_grid`;
            `WorstCase()` for a DEQ and `Network()` for anything else by default.
        rows: which rows of the protocol there are, by name; all by default. `["final"]` is a DEQ as it is
            deployed, and saves the adaptive attacks that are made for the others.
        defenses: the rows of the table, by name, in place of the protocol's. Candidates are searched on the one
            called early, or else on the first.
        beside: further rows beside those of the protocol, by name.
        gradients: further gradients to climb, a column each, by name.
        attacks: further attacks in the same threat model, a column each, by name: against every row, climbing all that
            stands for it.
        early: the n of the early-state defense, where no defenses are given. None chooses, on `development`, the
            intermediate state that is most robust under the protocol's attack, climbing the gradient that the weights
            are trained with (`own_gradient`; paper, §5.2).
        development: images and labels apart from x, only needed to choose `early`.
        batch_size: how many images are attacked at once.
        folder: where every finished attack on a batch is kept at once, so that a measurement that was interrupted goes
            on from there; None keeps results in memory only.
        overwrite: discard what an earlier measurement left in the folder.
        adversaries: keep the adversaries, in `folder / "adversaries"`, one safetensors file per attack and batch, and
            the images themselves, as those of the attack "clean".
        certified: certificates of the model on these images, to stand below what the attacks leave of the first row.
        fabric: the processes that share the work, as `distributed.launch` joins them; each of them calls this.
        report: called with the share of the work that is done, weighted by its cost, and what is under way; by default
            a progress bar, in a terminal or a notebook.

    Returns:
        The outcome of every sample.

    Raises:
        InputError: x or y cannot be used, the protocol does not fit the model or lacks a row, there is nothing to
            choose `early` on, the certificates are not of the first row, or the folder holds results of something else,
            or is in use by a process that it cannot be shared with.
    """
    if folder is None and (adversaries or (fabric is not None and fabric.world_size > 1)):
        raise InputError("adversaries are kept, and work is shared, in a folder; give one.")
    if fabric is not None:
        model, x, y = model.to(fabric.device), x.to(fabric.device), y.to(fabric.device)
    protocol = chosen(model, protocol)
    held = None if certified is None else guaranteed(certified, protocol.attack.threat, model, x, y)
    first = fabric is None or fabric.global_rank == 0
    with told("measuring", report if first else silent) as report:
        job = plan(
            model, x, y, protocol, defenses, gradients, early, development, batch_size, report, beside, attacks, rows
        )
        require(
            certified is None or job.rows[0].defense in (FinalState(), AsIs()),
            f"the first row is {job.titles[0]!r}, and the certificates are of the model as it is; begin with that.",
        )
        result = finish(job, folder, overwrite, adversaries, fabric, report)
    return result if certified is None or held is None else bracketed(result, certified, held)


def chosen(model: nn.Module, protocol: str | Protocol | None) -> Protocol:
    """The protocol that is given, that bears a name, or that a model is measured by where neither is said."""
    if protocol is None:
        return WorstCase() if isinstance(model, DEQ) else Network()
    return protocol_named(protocol) if isinstance(protocol, str) else protocol


def finish(
    job: Job,
    folder: str | Path | None = None,
    overwrite: bool = False,
    adversaries: bool = False,
    fabric: Fabric | None = None,
    report: Report | None = None,
) -> GridResult:
    """Do what is left of a job that `plan` has made, in a folder or in memory; all else is as for `measure`.

    Evaluations of one process may share a folder: what one has finished first stays. Several processes of one launch
    have stores of their own beside it, and the folder for themselves; so has one that discards what is there.
    """
    folder = None if folder is None else Path(folder)
    kept = folder / ADVERSARIES if folder is not None and adversaries else None
    several = None if fabric is None or fabric.world_size == 1 else fabric
    with ExitStack() as stack:
        if folder is not None and (fabric is None or fabric.global_rank == 0):
            if overwrite:
                with alone_in(folder):
                    discard(folder)
            stack.enter_context(beside_others_in(folder) if several is None else alone_in(folder))
        if folder is not None and several is not None:
            result = distributed.share(several, job, folder, report, kept)
        else:
            with Store.begin(folder, job.manifest()) as store:
                job.run(store, report=report, adversaries=kept)
                result = assemble(store)
    if report is not None:
        report(1.0, "done")
    return result


def plan(
    model: nn.Module,
    x: Pixels,
    y: Labels,
    protocol: Protocol,
    defenses: Mapping[str, Defense] | None = None,
    gradients: Gradients | None = None,
    early: int | None = None,
    development: tuple[Tensor, Tensor] | None = None,
    batch_size: int = 128,
    report: Report | None = None,
    beside: Mapping[str, Defense] | None = None,
    attacks: Mapping[str, Attack] | None = None,
    chosen: Sequence[str] | None = None,
) -> Job:
    """What `measure` will do; arguments and errors as there, `chosen` of the rows of the protocol."""
    for given in ({"protocol": protocol}, defenses, beside, gradients, attacks):
        check_made(**given or {})
    attack = protocol.attack
    attack.threat.check(x, y)
    if attack.targeted:
        raise InputError("attack.targeted is true; an evaluation asks which images leave their class: leave it false.")
    check_counts(batch_size=batch_size)
    gradients = gradients or {}
    settings = protocol.settings() | {"gradients": describe(gradients), "batch_size": batch_size}
    size = sum(parameter.numel() for parameter in model.parameters())
    settings["model"] = {"class": type(model).__name__, "parameters": size}
    titles = None if defenses is None else tuple(defenses)
    if defenses is not None:
        settings["defenses"] = describe(defenses)
        require(chosen is None, "rows are chosen among those of the protocol; leave them out where defenses are given.")
    else:
        reads_early = protocol.reads_early and "early" in (protocol.defenses(1) if chosen is None else chosen)
        if early is None and development is not None and reads_early:
            (report or silent)(0.0, "choosing the early state")
            deq = as_deq(model)
            held_x, held_y = (tensor.to(x.device) for tensor in development)
            early = choose_early_state(deq, held_x, held_y, attack, own_gradient(deq), batch_size)
        require(
            not reads_early or early is not None,
            "the early-state defense needs its state; give early=n, or a development set to choose it on.",
        )
        defenses = protocol.defenses(early)
        if chosen is not None:
            defenses = {name: look_up("row", name, defenses) for name in chosen}
            settings |= {"rows": list(chosen), "defenses": describe(defenses)}
        if reads_early:
            settings["early"] = early
    if attacks:
        settings["attacks"] = describe(attacks)
    beside = beside or {}
    if beside:
        settings["beside"] = describe(beside)
    for id in beside:
        require(id not in defenses, f"there is a row {id!r} already; give the defense another name.")
    with evaluating(model):
        own = tuple(Row(id, model, defense, x[:1]) for id, defense in defenses.items())
        rows = (*own, *(Row(id, model, defense, x[:1]) for id, defense in beside.items()))
    require(rows, "there is no defense to judge; give at least one.")
    if isinstance(model, DEQ):
        settings |= {part: describe(getattr(model, part)) for part in ("solver", "tail", "gradient")}
    columns = protocol.columns(model, rows, gradients)
    for name, other in (attacks or {}).items():
        columns.append(beyond(f"attack-{name}", name, adaptive(other, rows), Rule.EVERY))
    for column in filter(lambda column: column.role.counts, columns):
        for other in (attempt.attack.threat for attempt in column.attempts):
            said = f"the attack {column.label!r} has {other}, and this evaluation {attack.threat}; give one."
            require(other == attack.threat, said)
        aimed = any(getattr(attempt.attack, "targeted", False) for attempt in column.attempts)
        require(not aimed, f"the attack {column.label!r} is targeted; evaluations ask which images leave their class.")
    if strangers := _of_others([attempt.attack for column in columns for attempt in column.attempts]):
        settings["own losses and norms"] = strangers
    labels = Counter([*SUMMARIES, *(column.label for column in columns)])
    repeated = [label for label, n in labels.items() if n > 1]
    require(not repeated, f"there is a column {''.join(repeated[:1])!r} already; give the other another name.")
    with torch.no_grad(), evaluating(model):
        classes = rows[0].judge(x[:1]).shape[1]
    possible = tuple(column.against(x[:1], classes) for column in columns)
    made = Counter(attempt.key for column in possible for attempt in column.attempts if attempt.survivors)
    for column in possible:
        again = column.label in gradients and any(made[attempt.key] > 1 for attempt in column.attempts)
        require(not again, f"the protocol climbs the gradient {column.label!r} already; leave it out.")
    if not any(column.attempts for column in possible if column.role.shown):
        why = next((column.missing for column in possible if column.missing), "give the protocol one.")
        raise InputError(f"there is no attack to make: {why}")
    titles = (*(titles or protocol.titles(own)), *beside)
    twice = [title for title, n in Counter(titles).items() if n > 1]
    require(not twice, f"there is a row {''.join(twice[:1])!r} already; give the other another name.")
    return Job(model, rows, titles, possible, x, y, batch_size, settings, protocol.probed, protocol.probes())


def _of_others(attacks: Sequence[Attack]) -> list[Any]:
    """The code of losses and norms that are not of this package: the settings of attacks hold their names alone."""
    names = {name for attack in attacks for name in _losses(attack)}
    held = describe([*map(named, sorted(names)), *(attack.threat.measure for attack in attacks[:1])])
    return [thing for thing in held if isinstance(thing, dict) and "code" in thing]


def _losses(attack: Attack) -> Sequence[str]:
    held = getattr(attack, "criterion", ())
    return (held,) if isinstance(held, str) else held


def white_box_grid(
    deq: DEQ,
    x: Pixels,
    y: Labels,
    protocol: str | Protocol = "paper",
    attack: PGD | None = None,
    estimators: Estimators | None = None,
    strict: Strict | None = None,
    sources: Mapping[str, nn.Module] | None = None,
    **settings: Any,
) -> GridResult:
    """Attack a DEQ through every gradient and judge it under every defense: `measure` with its settings side by side.

    Args:
        deq: the model.
        x: the images or features, within the attack's bounds.
        y: their labels.
        protocol: a protocol, or the name of one: `"worst-case"`, `"paper"`, `"strict"`, `"ready-made"`, `"autoattack"`,
            `"entropy"`.
        attack: what climbs the gradients, where the protocol is named.
        estimators: the settings of the estimated gradients, where the protocol is named.
        strict: how hard the strict protocol and the worst case try, where one of them is named.
        sources: explicit networks whose adversaries the strict protocol transfers, by name.
        settings: all others as for `measure`, by name.

    Returns:
        The outcome of every sample.

    Raises:
        InputError: as for `measure`, or there is no such protocol.
    """
    if isinstance(protocol, str):
        effort = {} if strict is None else {own.name: getattr(strict, own.name) for own in fields(strict)}
        given = {"attack": attack, "estimators": estimators, "sources": sources}
        protocol = protocol_named(protocol, **effort | {name: own for name, own in given.items() if own is not None})
    return measure(deq, x, y, protocol, **settings)
