"""The protocols by name."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from robustdeq.base.errors import look_up, require
from robustdeq.evaluation.protocol import Adaptive, AutoAttackTable, Paper, Protocol, ReadyMade, Strict, WorstCase
from robustdeq.evaluation.solves import SlowDowns, Solvers

PROTOCOLS: dict[str, type[Protocol]] = {
    protocol.name: protocol
    for protocol in (WorstCase, Paper, Strict, ReadyMade, AutoAttackTable, Adaptive, SlowDowns, Solvers)
}


def protocol_named(name: str, **settings: Any) -> Protocol:
    """The protocol of that name and these settings; raises `InputError` where there is none, or it lacks a setting."""
    kind = look_up("protocol", name, PROTOCOLS)
    own = {known.name for known in fields(kind)}
    for setting in settings:
        require(setting in own, f"the protocol {name} has no {setting}; leave it out, or choose another.")
    return kind(**settings)
