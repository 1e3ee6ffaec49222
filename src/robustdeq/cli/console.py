"""Where the commands print their results: standard output, whose width decides that of the tables."""

from rich.console import Console

console = Console()
