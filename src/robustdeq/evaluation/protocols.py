"""The protocols by name."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from robustdeq.base.errors import look_up
from robustdeq.evaluation.protocol import Adaptive, AutoAttackTable, Paper, Protocol, ReadyMade, Strict, WorstCase
from robustdeq.evaluation.solves import SlowDowns, Solvers

PROTOCOLS: dict[str, type[Protocol]] = {
    protocol.name: protocol
    for protocol in (WorstCase, Paper, Strict, ReadyMade, AutoAttackTable, Adaptive, SlowDowns, Solvers)
}


def protocol_named(name: str, **settings: Any) -> Protocol:
    """The protocol of that name, with those of the settings that it has; raises `InputError` when there is none."""
    kind = look_up("protocol", name, PROTOCOLS)
    own = {known.name for known in fields(kind)}
    return kind(**{setting: value for setting, value in settings.items() if setting in own})
