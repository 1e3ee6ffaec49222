"""`robustdeq recipes`: what `robustdeq train` knows by name."""

from __future__ import annotations

from rich.table import Table

from robustdeq.cli.console import console
from robustdeq.recipes import recipe_names, recipe_summary


def recipes() -> None:
    """List the recipes for training."""
    table = Table("name", "what it trains", title="recipes")
    for name in recipe_names():
        table.add_row(name, recipe_summary(name))
    console.print(table)
