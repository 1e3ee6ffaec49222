"""How arguments are read: errors in one sentence with a hint, switches without a value, and short forms."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain, takewhile
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, auto_parser
from typing_extensions import override

from robustdeq.base.errors import InputError, hint

Function = Callable[..., None]


def parse(arguments: list[str], commands: Mapping[str, Function]) -> tuple[str, dict[str, Any]]:
    """The command that arguments ask for and the values of its parameters.

    Args:
        arguments: what was typed.
        commands: by name, the functions whose signatures are the options.

    Raises:
        InputError: the arguments cannot be used.
    """
    parser = _parser(tuple(commands.items()))
    parsed = parser.instantiate(parser.parse_args(_spelt_out([*map(_long, arguments)])))
    settings = dict(**parsed[parsed.subcommand])
    settings.pop("config", None)
    return parsed.subcommand, settings


@cache
def _parser(commands: tuple[tuple[str, Function], ...]) -> ArgumentParser:
    return auto_parser(dict(commands), prog="robustdeq", parser_class=_Parser)


class _Parser(ArgumentParser):
    """A parser whose errors are one sentence, and whose switches need no value."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.add_argument("--help-all", action="help", help="Show every setting and exit.")

    @override
    def parse_args(self, args: Sequence[str] | None = None, *others: Any, **more: Any) -> Any:
        return super().parse_args(args and [*self._switched_on(args)], *others, **more)

    def _switched_on(self, arguments: Sequence[str]) -> Iterator[str]:
        """The arguments with `--overwrite` as `--overwrite true`, and so on for every boolean option."""
        for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
            yield argument
            switch = getattr(self._option_string_actions.get(argument), "_typehint", None) is bool
            if switch and following.lower() not in _BOOLEANS:
                yield "true"

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        sentence = " ".join(message.split())
        if unknown := _UNKNOWN.search(sentence):
            meant = hint(next(filter(None, unknown.groups())), _known(self), "")
            sentence += f"; {meant}" if meant else ""
        raise InputError(sentence) from ex


_BOOLEANS = ("true", "false", "yes", "no", "on", "off")
_UNKNOWN = re.compile(
    r"unrecognized arguments: --([\w.]+)|does not accept option '([\w.]+)'|Option '(\w+)' is not accepted"
    r"|Expected a dot import path string: (\w+)"
)


def _known(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The names of all options of a parser and its commands, and of the classes and settings that they choose from."""
    yield from (option.removeprefix("--") for option in parser._option_string_actions)
    for action in parser._actions:
        choices = action.choices if isinstance(action.choices, dict) else {}
        yield from chain.from_iterable(map(_known, choices.values()))
        choice = getattr(action, "_typehint", None)
        if action.dest.endswith(".help") and isinstance(choice, type):  # the help of an option that chooses a class
            yield from _settings(choice)


def _settings(choice: type) -> Iterator[str]:
    """The names of a class's settings and of its subclasses, with theirs."""
    yield choice.__name__
    yield from (field.name for field in dataclasses.fields(choice)) if dataclasses.is_dataclass(choice) else ()
    yield from chain.from_iterable(map(_settings, choice.__subclasses__()))


def _long(argument: str) -> str:
    """An option of one letter may be given with one dash, as `-n 64`; -o is short for --output."""
    argument = re.sub(r"^-o(?==|$)", "--output", argument)
    return f"-{argument}" if re.fullmatch(r"-[a-gi-z](=.*)?", argument) else argument


def _spelt_out(arguments: list[str]) -> list[str]:
    """`train RECIPE …` is `train --config FILE …`, `reproduce NAME …` is `reproduce --name NAME …`, and so on."""
    match arguments:
        case ["report", *rest]:
            runs = [*takewhile(lambda argument: not argument.startswith("-"), rest)]
            return ["report", *[json.dumps(runs)] * bool(runs), *rest[len(runs) :]]
        case ["reproduce" | "bench" as name, what, *rest] if not what.startswith("-"):
            return [name, "--name", what, *rest]
        case ["train", recipe, *rest] if not recipe.startswith("-"):
            from robustdeq.recipes import read_recipe

            return ["train", "--config", json.dumps(read_recipe(recipe)), *rest]
    return arguments
