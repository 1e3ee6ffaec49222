"""The command line: one module per command, whose signature is its options and whose docstring is its help."""

from robustdeq.cli.commands import main

__all__ = ["main"]
