"""Where the commands print their results: standard output, whose width decides that of the tables."""

from rich.console import Console

console = Console()


def say(sentence: str) -> None:
    """Print a sentence as it is, in one line: what stands in brackets may be the name of a file."""
    console.print(sentence, markup=False, highlight=False, soft_wrap=True)
