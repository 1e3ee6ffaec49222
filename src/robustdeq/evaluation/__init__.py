"""What a model is worth: the defense × attack grid, its statistics, and what can be trusted of it."""

from robustdeq.base.statistics import wilson_interval
from robustdeq.evaluation.assemble import assemble
from robustdeq.evaluation.diagnostics import Check
from robustdeq.evaluation.grid import white_box_grid
from robustdeq.evaluation.plan import (
    choose_early_state,
    deq_evaluation,
    network_evaluation,
    reduction_evaluation,
)
from robustdeq.evaluation.profile import StateProfile, state_profile
from robustdeq.evaluation.protocol import Column, Estimators, Strict
from robustdeq.evaluation.result import GridResult
from robustdeq.evaluation.run import Evaluation
from robustdeq.evaluation.store import Store

__all__ = [
    "Check",
    "Column",
    "Estimators",
    "Evaluation",
    "GridResult",
    "StateProfile",
    "Store",
    "Strict",
    "assemble",
    "choose_early_state",
    "deq_evaluation",
    "network_evaluation",
    "reduction_evaluation",
    "state_profile",
    "white_box_grid",
    "wilson_interval",
]
