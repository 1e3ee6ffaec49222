"""Ctrl-C for a command that a test starts, even where a shell runs the tests in the background."""

import signal


def heed() -> None:
    """Undo, in the child before it runs, what such a shell does: it makes all that it starts deaf to SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
