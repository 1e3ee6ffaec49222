"""The report: one HTML file that needs nothing else."""

from robustdeq.reporting.page.build import save_page

__all__ = ["save_page"]
