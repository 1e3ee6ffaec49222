"""What people look at: tables and figures, and files for other tools."""

from robustdeq.reporting.document import save_document
from robustdeq.reporting.drawings import save_drawing
from robustdeq.reporting.export import export, latex_table, long_frame, robustbench_entries
from robustdeq.reporting.figures import save_profile_figure, save_training_figure
from robustdeq.reporting.page import save_page
from robustdeq.reporting.panels import experiments_table, panel_latex, panel_markdown, panel_table, reproduction_latex
from robustdeq.reporting.performance import claims_table, save_performance
from robustdeq.reporting.runs import ReportedRun, is_report, read_run
from robustdeq.reporting.tables import checks_table, grid_table

__all__ = [
    "ReportedRun",
    "checks_table",
    "claims_table",
    "experiments_table",
    "export",
    "grid_table",
    "is_report",
    "latex_table",
    "long_frame",
    "panel_latex",
    "panel_markdown",
    "panel_table",
    "read_run",
    "reproduction_latex",
    "robustbench_entries",
    "save_document",
    "save_drawing",
    "save_page",
    "save_performance",
    "save_profile_figure",
    "save_training_figure",
]
