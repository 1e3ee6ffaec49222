"""From a store to a table: the outcomes of a finished evaluation, put together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool

from robustdeq.base.errors import InputError
from robustdeq.evaluation.diagnostics import Evidence, checks
from robustdeq.evaluation.profile import StateProfile
from robustdeq.evaluation.protocol import (
    Role,
    Rule,
    Witness,
)
from robustdeq.evaluation.result import GridResult
from robustdeq.evaluation.run import CLEAN
from robustdeq.evaluation.store import Run, Store


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
    counted = [attempt for column in shown for attempt in outcomes[column["name"]]]
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
        withstood=np.logical_and.reduce(counted),
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
