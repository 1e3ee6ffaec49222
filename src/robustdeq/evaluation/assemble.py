"""From a store to a table: the outcomes of a finished evaluation, put together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from robustdeq.base.errors import InputError, require
from robustdeq.evaluation.column import Role, Rule
from robustdeq.evaluation.diagnostics import Check, Evidence, Standing, checks
from robustdeq.evaluation.early import StateProfile
from robustdeq.evaluation.job import CLEAN
from robustdeq.evaluation.probes import PROBES
from robustdeq.evaluation.result import GridResult
from robustdeq.evaluation.solves import Slowness
from robustdeq.evaluation.store import Finished, Outcome, Store

_FINAL = ("FinalState", "AsIs")
"""The defenses whose logits the ready-made gradient is of; a protocol's own rows begin with one."""


def assemble(store: Store) -> GridResult:
    """The table of a finished evaluation, from its store alone.

    Raises:
        InputError: it is not finished, or was written by another version.
    """
    try:
        return _assembled(store)
    except (KeyError, TypeError) as error:
        raise InputError("the results were written by another version of robustdeq; evaluate again.") from error


def _assembled(store: Store) -> GridResult:
    manifest = store.manifest
    columns = manifest["columns"]

    def gather(key: str, batches: int) -> list[Finished]:
        known = [found for batch in range(batches) if (found := store.get(key, batch)) is not None]
        require(len(known) == batches, "the evaluation is not finished; run the same command again and it goes on.")
        return known

    made = [(attempt["key"], column) for column in columns for attempt in column["attempts"]]
    most = dict(sorted([(CLEAN, manifest["batches"]), *((key, column["batches"]) for key, column in made)]))
    runs = {key: gather(key, batches) for key, batches in most.items()}
    found = {key: Outcome.of([run.outcome for run in known]) for key, known in runs.items()}
    errors, withstood = found[CLEAN].errors, np.ones_like(found[CLEAN].standing)
    for key, column in made:
        if Role(column["role"]).counts:
            first = found[key].standing.shape[1]
            withstood[:, :first] &= found[key].standing
            errors[:, :first] |= found[key].errors
    shown = [column for column in columns if Role(column["role"]).shown]
    table, words, climbed, tried = [], [], [], []
    for column in shown:
        outcomes = [found[attempt["key"]].standing for attempt in column["attempts"]]
        climbs = [attempt["climbs"] for attempt in column["attempts"]]
        tried.append(np.stack([outcome.sum(axis=1) for outcome in outcomes], axis=1))
        if column["rule"] == Rule.EVERY:
            table.append(np.logical_and.reduce(outcomes))
            words.append("; ".join(dict.fromkeys(climbs)))
            climbed.append(None)
        else:
            climbed.append(int(tried[-1][manifest["searched"]].argmin()))
            table.append(outcomes[climbed[-1]])
            words.append(climbs[climbed[-1]])
    ready_made = [column["attempts"][0]["key"] for column in shown if column["ready_made"]]
    followed = dict(zip((CLEAN, "ready-made attack"), (CLEAN, *ready_made), strict=False))
    followed |= {column["curve"]: column["attempts"][0]["key"] for column in shown if column.get("curve")}
    states = {name: [run.states for run in runs[key] if run.states is not None] for name, key in followed.items()}
    result = GridResult(
        defenses=tuple(row["title"] for row in manifest["rows"]),
        columns=tuple(column["label"] for column in shown),
        gradients=tuple(words),
        beyond_paper=tuple(column["role"] != Role.PAPER for column in shown),
        clean=found[CLEAN].standing,
        per_sample=np.stack(table, axis=1),
        withstood=withstood,
        profiles={name: StateProfile.of(batches) for name, batches in states.items() if batches},
        settings=manifest["settings"] | manifest["environment"],
        cumulative=tuple(column["cumulative"] for column in shown),
        errors=tuple(int(count) for count in errors.sum(axis=1)),
        ids=tuple(column["id"] for column in shown),
        climbed=tuple(climbed),
        ready_made=tuple(column["ready_made"] for column in shown),
        tried=tuple(tried),
        missing=dict(manifest.get("missing", ())),
    )
    return replace(result, checks=(*_probed(store, result), *checks(_evidence(manifest, found, result))))


def _probed(store: Store, result: GridResult) -> list[Check]:
    """What the probes say, over all batches that they were made on."""
    titles = dict(zip((row["id"] for row in store.manifest["rows"]), result.defenses, strict=True))
    made = []
    for name, probe in (PROBES | {Slowness.name: Slowness}).items():
        notes = [numbers for (noted, _), numbers in sorted(store.notes.items()) if noted == name]
        if notes:
            found = {
                titles[row]: {key: np.concatenate([np.array(note[row][key]) for note in notes]) for key in its}
                for row, its in notes[0].items()
            }
            made.append(probe.check(found))
    return made


def _evidence(manifest: dict[str, Any], found: dict[str, Outcome], result: GridResult) -> Evidence:
    """What the checks of the attacks rest on, as far as the protocol made what they need; nothing without probes."""
    columns = {column["id"]: column for column in manifest["columns"]}
    titles = [*zip((row["id"] for row in manifest["rows"]), result.defenses, strict=True)]
    watched = {title: row for (_, title), row in zip(titles, manifest["rows"], strict=True)}
    if "one-step" not in columns and not any(row.get("operations") or row.get("unwatched") for row in watched.values()):
        return Evidence()
    ids = [id for id, _ in titles]
    alone = {id: column["attempts"] for id, column in columns.items() if not column["cumulative"]}

    def against(row: str | None, *names: str) -> list[Outcome]:
        """What the attempts of these columns against a row came to, where they were made on all images."""
        attempts = [attempt for name in names for attempt in alone.get(name, ())]
        return [found[attempt["key"]] for attempt in attempts if attempt["settings"]["against"] == row]

    def standing(*names: str, own: bool = True) -> Standing:
        """What stands in each row under the attempts of these columns against it, or against none."""
        made = [(title, i, against(id if own else None, *names)) for i, (id, title) in enumerate(titles)]
        return {
            title: np.logical_and.reduce([o.standing[i] for o in outcomes]) for title, i, outcomes in made if outcomes
        }

    given = manifest["settings"].get("defenses", {})
    final = [id for id in given if given[id]["class"] in _FINAL] if given else ids[:1]
    climbed = standing(*(id for id, column in columns.items() if column["ready_made"]), own=False)
    moved = [(title, [outcome.moved for outcome in against(id, "one-step")]) for id, title in titles]
    queried = result.ids.index("square") if "square" in result.ids else 0
    before = result.clean & result.per_sample[:, :queried].all(axis=1)
    after = before & result.per_sample[:, queried]
    return Evidence(
        single=standing("pgd", *(f"through-{id}" for id in ids)),
        restarted=standing("restarts"),
        one_step=standing("one-step"),
        moved={title: np.logical_or.reduce(moves) for title, moves in moved if moves},
        unbounded=standing("unbounded"),
        before_queries=dict(zip(result.defenses, before, strict=True)) if queried else {},
        after_queries=dict(zip(result.defenses, after, strict=True)) if queried else {},
        ready_made={title: climbed[title] for id, title in titles if id in final and title in climbed},
        errors=dict(zip(result.defenses, result.errors, strict=True)),
        straight=standing("straight-through"),
        operations={title: row["operations"] for title, row in watched.items() if "operations" in row},
        unwatched={title: row.get("unwatched", "") for title, row in watched.items()},
        eps=manifest["settings"]["attack"]["eps"],
    )
