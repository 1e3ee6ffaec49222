"""What people look at: tables and figures."""

from robustdeq.reporting.figures import save_profile_figure
from robustdeq.reporting.tables import grid_table

__all__ = ["grid_table", "save_profile_figure"]
