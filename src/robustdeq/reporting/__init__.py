"""What people look at: tables and figures, and files for other tools."""

from robustdeq.reporting.export import export, latex_table, long_frame, robustbench_entries
from robustdeq.reporting.figures import save_profile_figure, save_training_figure
from robustdeq.reporting.tables import checks_table, grid_table

__all__ = [
    "checks_table",
    "export",
    "grid_table",
    "latex_table",
    "long_frame",
    "robustbench_entries",
    "save_profile_figure",
    "save_training_figure",
]
