"""From a store to a table: the outcomes of a finished evaluation, put together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Bool

from robustdeq.base.errors import InputError
from robustdeq.evaluation.column import Role, Rule
from robustdeq.evaluation.diagnostics import Evidence, checks
from robustdeq.evaluation.early import StateProfile
from robustdeq.evaluation.job import CLEAN
from robustdeq.evaluation.result import GridResult
from robustdeq.evaluation.store import Finished, Store

Outcomes = Bool[np.ndarray, "rows n"]


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
    columns, batches = manifest["columns"], range(manifest["batches"])

    def gather(key: str, role: Role = Role.PAPER) -> list[Finished]:
        known = [found for batch in batches if (found := store.get(key, batch)) is not None]
        if len(known) < len(batches) and (role.shown or not known):
            raise InputError("the evaluation is not finished; run the same command again and it goes on.")
        return known

    found = {
        attempt["key"]: gather(attempt["key"], Role(column["role"]))
        for column in columns
        for attempt in column["attempts"]
    }
    clean = gather(CLEAN)
    errors = np.concatenate([batch.outcome.errors for batch in clean], axis=1)
    withstood = np.ones_like(errors)
    for column in columns:
        if Role(column["role"]).counts:
            for attempt in column["attempts"]:
                stands = _standing(found[attempt["key"]])
                wrong = np.concatenate([batch.outcome.errors for batch in found[attempt["key"]]], axis=1)
                withstood[:, : stands.shape[1]] &= stands
                errors[:, : wrong.shape[1]] |= wrong
    shown = [column for column in columns if Role(column["role"]).shown]
    table, words, climbed = [], [], []
    for column in shown:
        outcomes = [_standing(found[attempt["key"]]) for attempt in column["attempts"]]
        climbs = [attempt["climbs"] for attempt in column["attempts"]]
        if column["rule"] == Rule.EVERY:
            table.append(np.logical_and.reduce(outcomes))
            words.append("; ".join(dict.fromkeys(climbs)))
            climbed.append(None)
        else:
            hurt = [int(outcome[manifest["searched"]].sum()) for outcome in outcomes]
            climbed.append(hurt.index(min(hurt)))
            table.append(outcomes[climbed[-1]])
            words.append(climbs[climbed[-1]])
    ready_made = [found[column["attempts"][0]["key"]] for column in shown if column["ready_made"]]
    followed = {CLEAN: clean, "ready-made attack": [*ready_made, []][0]}
    states = {name: [batch.states for batch in runs if batch.states is not None] for name, runs in followed.items()}
    result = GridResult(
        defenses=tuple(row["title"] for row in manifest["rows"]),
        columns=tuple(column["label"] for column in shown),
        gradients=tuple(words),
        beyond_paper=tuple(column["role"] != Role.PAPER for column in shown),
        clean=_standing(clean),
        per_sample=np.stack(table, axis=1),
        withstood=withstood,
        profiles={name: StateProfile.of(batches) for name, batches in states.items() if batches},
        settings=manifest["settings"] | manifest["environment"],
        cumulative=tuple(column["cumulative"] for column in shown),
        errors=tuple(int(count) for count in errors.sum(axis=1)),
        ids=tuple(column["id"] for column in shown),
        climbed=tuple(climbed),
        ready_made=tuple(column["ready_made"] for column in shown),
    )
    evidence = _evidence(manifest, found, result)
    return result if evidence is None else replace(result, checks=checks(evidence))


def _standing(found: list[Finished]) -> Outcomes:
    return np.concatenate([batch.outcome.standing for batch in found], axis=1)


def _evidence(manifest: dict[str, Any], found: dict[str, list[Finished]], result: GridResult) -> Evidence | None:
    """What the checks of the attacks rest on, where the protocol made the attacks that they need."""
    columns = {column["id"]: column["attempts"] for column in manifest["columns"]}
    ids = [row["id"] for row in manifest["rows"]]
    titles = dict(zip(ids, result.defenses, strict=True))
    single = [f"through-{id}" for id in ids]
    if not {*single, "unrolled-final", "restarts", "square", "one-step", "unbounded"} <= columns.keys():
        return None

    def own(*names: str) -> dict[str, Bool[np.ndarray, "n"]]:
        """What stands in each row under the attempts against it."""
        attempts = [attempt for name in names for attempt in columns[name]]
        return {
            titles[id]: np.logical_and.reduce(
                [_standing(found[a["key"]])[i] for a in attempts if a["settings"]["against"] == id]
            )
            for i, id in enumerate(ids)
        }

    moved = {
        titles[id]: np.logical_or.reduce(
            [
                np.concatenate([batch.outcome.moved for batch in found[attempt["key"]]])
                for attempt in columns["one-step"]
                if attempt["settings"]["against"] == id
            ]
        )
        for id in ids
    }
    square = result.ids.index("square")
    before = result.clean & result.per_sample[:, :square].all(axis=1)
    ready_made = result.per_sample[:, result.ids.index("unrolled-final")]
    return Evidence(
        single=own(*single),
        restarted=own("restarts"),
        one_step=own("one-step"),
        moved=moved,
        unbounded=own("unbounded"),
        before_queries=dict(zip(result.defenses, before, strict=True)),
        after_queries=dict(zip(result.defenses, before & result.per_sample[:, square], strict=True)),
        ready_made=dict(zip(result.defenses, ready_made, strict=True)),
        errors=dict(zip(result.defenses, result.errors, strict=True)),
    )
