"""The states of a solve, one by one, as panels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from robustdeq.evaluation import StateProfile
from robustdeq.reporting.wording import states
from robustdeq.study import Drawing, Panel


def profile_panels(profiles: Mapping[str, StateProfile]) -> tuple[Panel, Panel]:
    """Residual and accuracy of every state, a row for each profile (Figs. 2a and 2b)."""
    residuals = np.array([profile.residual for profile in profiles.values()], float)
    accuracies = 100 * np.array([profile.accuracy for profile in profiles.values()])
    names, columns = tuple(profiles), states(residuals.shape[1])
    shown = {"column_axis": "state", "drawing": Drawing.CURVES}
    return (
        Panel("Residual", "‖f(z)−z‖ / ‖f(z)‖", names, columns, residuals, logarithmic=True, **shown),
        Panel("Accuracy", "%", names, columns, accuracies, **shown),
    )
