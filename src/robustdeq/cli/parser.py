"""How arguments are read: a command's signature is its grammar, and errors are one sentence with a hint."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from typing import Annotated, Any, NoReturn, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentParser, get_loader, set_loader
from typing_extensions import override

from robustdeq.base.errors import InputError, hint, require
from robustdeq.base.imports import reason
from robustdeq.cli.help import explained, short_form
from robustdeq.recipes import check_yaml

Function = Callable[..., None]

_CONFIG: dict[str, Any] = {"action": "config", "help": "A YAML file of options."}
_usual = get_loader("yaml")


def _loaded(text: str) -> Any:
    """The settings in a text, as the parser usually reads them, where they are without aliases."""
    check_yaml(text)
    return _usual(text)


set_loader("yaml", _loaded, (yaml.YAMLError, ValueError))


def parse(arguments: list[str], commands: Mapping[str, Function]) -> tuple[str, dict[str, Any]]:
    """The command that arguments ask for and the values of its parameters.

    Args:
        arguments: what was typed.
        commands: by name, the functions whose signatures are the arguments: what stands before the `*` is a word, what
            stands behind it an option.

    Raises:
        InputError: the arguments cannot be used.
    """
    parser = _parser(tuple(commands.items()))
    parsed = parser.parse_args(arguments)
    try:
        parsed = parser.instantiate(parsed)
    except (TypeError, AttributeError, OverflowError) as error:
        raise InputError(f"the settings make no {parsed.subcommand} ({reason(error)}); give each a value.") from error
    settings = dict(**parsed[parsed.subcommand])
    settings.pop("config")
    return parsed.subcommand, settings


@cache
def _parser(commands: tuple[tuple[str, Function], ...]) -> ArgumentParser:
    parser = _Parser(prog="robustdeq")
    parser.add_argument("--config", **_CONFIG)
    subcommands = parser.add_subcommands(required=True)
    for name, function in commands:
        subcommands.add_subcommand(name, _parser_of(function))
    return parser


def _parser_of(function: Function) -> _Parser:
    """The parser of one command; a word that may be left out is an option as well, unless it names settings."""
    parser, said, done = _Parser(), explained(inspect.getdoc(function) or ""), set[str | int]()
    parser.add_argument("--config", **_CONFIG)
    kinds = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        kind, form = kinds[name], dict[str, Any](help=said[name])
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            if get_origin(kind) is Annotated:
                kind, read = get_args(kind)
                parser.named = name, read
            elif get_origin(kind) is list:
                (kind,), form["nargs"] = get_args(kind), "+"
            if parameter.default is not parameter.empty:
                form |= {"nargs": "?", "default": argparse.SUPPRESS}
            parser.add_argument(name, type=kind, **form)
            if "default" not in form or parser.named:
                done.add(name)
        elif short_form(name):
            parser.add_argument(f"--{name}", short_form(name), type=kind, default=parameter.default, **form)
            done.add(name)
    parser.add_function_arguments(function, as_group=False, sub_configs=True, skip=done)
    for action in parser._actions:
        if getattr(action, "_typehint", None) is bool:
            action.nargs, action.const = "?", True
    return parser


class _Parser(ArgumentParser):
    """A parser whose errors are one sentence, whose switches need no value, and whose word may name settings.

    Attributes:
        named: that word and what reads its settings; options override them, wherever they stand.
    """

    named: tuple[str, Callable[[str], dict[str, Any]]] | None = None
    _seeking = False

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.add_argument("--help-all", action="help", help="Show every setting and exit.")

    @override
    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None, *others: Any, **more: Any) -> Any:
        if self.named is None or self._seeking:
            return super().parse_args(args, namespace, *others, **more)
        word, read = self.named
        self._seeking = True
        try:
            name = super().parse_args(args, _skip_validation=True).get(word)
        finally:
            self._seeking = False
        if name is not None:
            namespace = self.parse_object(read(name), namespace, defaults=False, _skip_validation=True)
        parsed = super().parse_args(args, namespace, *others, **more)
        require(parsed.get(word) == name, f"{word} stands in a file of options; give it on the command line.")
        return parsed

    @override
    def parse_path(self, cfg_path: Any, *others: Any, **more: Any) -> Any:
        try:
            return super().parse_path(cfg_path, *others, **more)
        except UnicodeDecodeError as error:
            raise InputError(f"{cfg_path} is not UTF-8; save it as that.") from error

    @override
    def dump(self, cfg: Any, *others: Any, **more: Any) -> str:
        """The settings as YAML, without the word that named some of them."""
        settings = cfg.clone()
        if self.named is not None:
            settings.pop(self.named[0], None)
        return super().dump(settings, *others, **more)

    @override
    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """The values of an action; none of an option while the word is sought."""
        seen = not (self._seeking and action.option_strings)
        return super()._get_values(action, arg_strings) if seen else argparse.SUPPRESS

    @override
    def _match_argument(self, action: argparse.Action, arg_strings_pattern: str) -> int:
        """How many words an option takes: a switch takes none unless what stands behind it says on or off."""
        place = len(self.args) - len(arg_strings_pattern)
        switch = action.const is True and self.args[place - 1] in action.option_strings
        if switch and not _BOOLEANS.issuperset(map(str.lower, self.args[place : place + 1])):
            return 0
        return super()._match_argument(action, arg_strings_pattern)

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        sentence = " ".join(message.split())
        if chosen := _NO_CLASS.search(sentence):
            key, name = chosen.groups()
            sentence = f"there is no {key} {name!r}; {hint(name, _classes(self, key))}"
        elif unknown := _UNKNOWN.search(sentence):
            meant = hint(next(filter(None, unknown.groups())), _known(self), "")
            sentence += f"; {meant}" if meant else ""
        raise InputError(sentence) from ex


_BOOLEANS = {"true", "false", "yes", "no", "on", "off"}
_UNKNOWN = re.compile(
    r"unrecognized arguments: --([\w.]+)|does not accept option '([\w.]+)'|Option '(\w+)' is not accepted"
)
_NO_CLASS = re.compile(r'Parser key "([\w.]+)".* Expected a dot import path string: (\w+)')


def _known(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The names of all options of a parser and its commands, and of the classes and settings that they choose from."""
    yield from (option.removeprefix("--") for option in parser._option_string_actions)
    for action in parser._actions:
        choices = action.choices if isinstance(action.choices, dict) else {}
        yield from chain.from_iterable(map(_known, choices.values()))
        choice = getattr(action, "_typehint", None)
        if action.dest.endswith(".help") and isinstance(choice, type):  # the help of an option that chooses a class
            yield from _settings(choice)


def _classes(parser: argparse.ArgumentParser, key: str) -> Iterator[str]:
    """The names of the classes that an option chooses from."""
    for action in parser._actions:
        choice = getattr(action, "_typehint", None)
        if action.dest == f"{key}.help" and isinstance(choice, type):
            base = choice if not dataclasses.is_dataclass(choice) else None
            yield from (kind.__name__ for kind in _kinds(choice) if kind is not base and not inspect.isabstract(kind))


def _kinds(choice: type) -> Iterator[type]:
    """A class and all that derive from it."""
    yield choice
    yield from chain.from_iterable(map(_kinds, choice.__subclasses__()))


def _settings(choice: type) -> Iterator[str]:
    """The names of a class's settings and of its subclasses, with theirs."""
    for kind in _kinds(choice):
        yield kind.__name__
        yield from (field.name for field in dataclasses.fields(kind)) if dataclasses.is_dataclass(kind) else ()
