"""What a model is worth: the defense × attack grid, its statistics, and what can be trusted of it."""

from robustdeq.base.statistics import wilson_interval
from robustdeq.evaluation.assemble import assemble
from robustdeq.evaluation.column import Attempt, Column
from robustdeq.evaluation.diagnostics import Check, CheckVerdict
from robustdeq.evaluation.early import StateProfile, choose_early_state, state_profile
from robustdeq.evaluation.measure import measure, white_box_grid
from robustdeq.evaluation.protocol import (
    Adaptive,
    AutoAttackTable,
    Chosen,
    Estimators,
    Network,
    Paper,
    Protocol,
    ReadyMade,
    Strict,
    WorstCase,
)
from robustdeq.evaluation.result import GridResult
from robustdeq.evaluation.store import Store

__all__ = [
    "Adaptive",
    "Attempt",
    "AutoAttackTable",
    "Check",
    "CheckVerdict",
    "Chosen",
    "Column",
    "Estimators",
    "GridResult",
    "Network",
    "Paper",
    "Protocol",
    "ReadyMade",
    "StateProfile",
    "Store",
    "Strict",
    "WorstCase",
    "assemble",
    "choose_early_state",
    "measure",
    "state_profile",
    "white_box_grid",
    "wilson_interval",
]
