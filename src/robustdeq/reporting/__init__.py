"""What people look at: tables in every medium, figures, documents, the page, and files for other tools."""

from robustdeq.base.extras import extra

with extra("report"):
    from robustdeq.reporting.certified import certified_table, save_certified_figure
    from robustdeq.reporting.documents import (
        performance_sections,
        reproduction_index,
        reproduction_pages,
        save_document,
        save_performance,
    )
    from robustdeq.reporting.figures import save_drawing, save_profile_figure, save_training_figure
    from robustdeq.reporting.formats import export, long_frame, robustbench_entries
    from robustdeq.reporting.latex import latex, reproduction_latex
    from robustdeq.reporting.leaderboard import (
        entry_table,
        leaderboard_sections,
        leaderboard_tables,
        read_entries,
        save_leaderboard,
        save_leaderboard_page,
    )
    from robustdeq.reporting.markdown import markdown
    from robustdeq.reporting.page import save_page
    from robustdeq.reporting.runs import ReportedRun, is_report, read_evaluation, read_run, refuse_foreign
    from robustdeq.reporting.tabulation import (
        Table,
        checks_table,
        claims_table,
        experiments_table,
        findings_table,
        grid_table,
        panel_table,
    )
    from robustdeq.reporting.terminal import terminal

__all__ = [
    "ReportedRun",
    "Table",
    "certified_table",
    "checks_table",
    "claims_table",
    "entry_table",
    "experiments_table",
    "export",
    "findings_table",
    "grid_table",
    "is_report",
    "latex",
    "leaderboard_sections",
    "leaderboard_tables",
    "long_frame",
    "markdown",
    "panel_table",
    "performance_sections",
    "read_entries",
    "read_evaluation",
    "read_run",
    "refuse_foreign",
    "reproduction_index",
    "reproduction_latex",
    "reproduction_pages",
    "robustbench_entries",
    "save_certified_figure",
    "save_document",
    "save_drawing",
    "save_leaderboard",
    "save_leaderboard_page",
    "save_page",
    "save_performance",
    "save_profile_figure",
    "save_training_figure",
    "terminal",
]
