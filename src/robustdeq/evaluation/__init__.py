"""What a model is worth: the defense × attack grid and its statistics."""

from robustdeq.evaluation.grid import GridResult, choose_early_state, white_box_grid
from robustdeq.evaluation.profile import StateProfile, state_profile
from robustdeq.evaluation.protocol import Column, Estimators
from robustdeq.evaluation.statistics import wilson_interval

__all__ = [
    "Column",
    "Estimators",
    "GridResult",
    "StateProfile",
    "choose_early_state",
    "state_profile",
    "white_box_grid",
    "wilson_interval",
]
