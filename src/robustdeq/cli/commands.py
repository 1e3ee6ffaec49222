"""Which commands there are, and how one is run; its module, and all that it needs, is imported when it is asked for."""

from __future__ import annotations

import io
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from importlib.metadata import version
from typing import Any, NoReturn

from robustdeq.base.errors import InputError, look_up
from robustdeq.base.processes import Alone, follow, leave, torchrun
from robustdeq.cli.help import help_of, overview

COMMANDS = {
    "demo": "Train one small DEQ in two ways on digits, attack both, and show what looks robust and what is.",
    "train": "Train a model by a recipe and keep the weights that resist best on the development split.",
    "evaluate": "Attack a model through every gradient, under every defense, and show the table.",
    "verify": "Read, measure and judge again every adversary that an evaluation kept, and say what agrees with its "
    "results.",
    "certify": "Certify how far each image may be moved before a model's answer can change.",
    "reproduce": "Measure a table or figure of the paper, or one that it could not show, beside the paper's numbers.",
    "report": "Make a page, or a Markdown document of tables and figures, from the folders of evaluations and "
    "reproductions.",
    "submit": "Check an entry of the leaderboard and write its row; nothing that the entry says is taken for granted.",
    "leaderboard": "Make the table of all entries that `robustdeq submit` wrote.",
    "bench": "Measure speed and memory as ratios, every side in one run, and say which bounds they keep.",
    "export": "Write the results of an evaluation in the format of another tool.",
    "convert": "Turn a checkpoint of the published MDEQ code, or of a CIFAR residual network, into a weights file.",
    "models": "List the sizes of models and the weights that can be loaded by name.",
    "recipes": "List the recipes for training.",
}
"""The first lines of the docstrings, so that help need not import what the commands use."""
_WIDEST = 100


def command(name: str) -> Callable[..., None]:
    """The function that does a command, from the module of its name."""
    return getattr(import_module(f"robustdeq.cli.{name}"), name)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; input that cannot be used ends it with one sentence and status 2.

    Args:
        arguments: the command and its options; those of the process by default.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for terminals without Greek letters, or names without UTF-8
    follow()
    usual = sys.unraisablehook
    sys.unraisablehook = partial(_unless_stopped, usual)
    try:
        _run(given)
    except InputError as error:
        fail(str(error))
    except ValueError as error:  # the parser's, where one of several types refused its settings
        if not isinstance(error.__cause__, InputError):
            raise
        fail(str(error.__cause__))
    except OSError as error:
        fail(f"{os.fsdecode(error.filename or 'a file')} cannot be read or written ({error.strerror or error}).")
    except KeyboardInterrupt:
        with _deaf():
            fail("interrupted.", status=130)
    finally:
        sys.unraisablehook = usual


def _unless_stopped(usual: Callable[[Any], object], lost: Any) -> None:
    """Show no traceback of a signal that Python drops, since it struck within a callback: the next one counts."""
    if not issubclass(lost.exc_type, KeyboardInterrupt | SystemExit):
        usual(lost)


def fail(sentence: str, status: int = 2) -> NoReturn:
    """Print a sentence on standard error, once for all processes, and end this one with a status."""
    from rich.console import Console

    if not leave(sentence):
        Console(stderr=True).print(f"robustdeq: {sentence}", style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(status)


def _run(given: list[str]) -> None:
    """Do one command, in several processes where it asks for them.

    Options before it (`--config FILE` with a section per command) need the parsers of all.
    """
    first, asks = (given or ["--help"])[0], not {"-h", "--help"}.isdisjoint(given or ["--help"])
    if not first.startswith("-"):
        look_up("command", first, COMMANDS)
    if first == "--version":
        print(f"robustdeq {version('robustdeq')}")
        return
    if asks:
        width = min(shutil.get_terminal_size().columns, _WIDEST)
        print(help_of(first, width) if first in COMMANDS else overview(COMMANDS, width))
        return
    from robustdeq.cli.parser import parse

    name, settings = parse(given, {name: command(name) for name in ([first] if first in COMMANDS else COMMANDS)})
    try:
        try:
            command(name)(**settings)
        except Alone as alone:
            torchrun(sys.orig_argv[1:] if given == sys.argv[1:] else ["-m", "robustdeq.cli", *given], alone.devices)
    except KeyboardInterrupt as stop:
        with _deaf():
            fail(" ".join(filter(None, ("interrupted", str(stop)))) + f"{_way_on(name, settings)}.", status=130)


@contextmanager
def _deaf() -> Iterator[None]:
    """Within it a second interruption does not keep the first one's sentence from being said."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)


def _way_on(name: str, settings: dict[str, Any]) -> str:
    """What goes on with a command that was interrupted; empty where it begins anew."""
    match name, settings:
        case "train", {"resume": resume}:
            return f"; the same command{'' if resume else ' with --resume'} goes on from its newest checkpoint"
        case "evaluate", {"overwrite": True}:
            return "; the same command without --overwrite goes on from what is finished"
        case "demo" | "evaluate" | "reproduce" | "bench", _:
            return "; the same command goes on from what is finished"
    return ""
