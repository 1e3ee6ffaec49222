"""Help that comes at once: read from the source of a command, whose imports it does not wait for."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from itertools import starmap
from pathlib import Path
from textwrap import TextWrapper

from docstring_parser import DocstringStyle, parse

_LEFT = 24


def overview(commands: Mapping[str, str], width: int) -> str:
    """The help of the whole command line.

    Args:
        commands: what each does, by name.
        width: of the terminal.
    """
    advice = (
        "`robustdeq COMMAND --help` explains a command and its options. Every option has a default that works. Options "
        "can also stand in a YAML file (--config FILE); those on the command line override it."
    )
    rows = (_row(f"  {name}", summary, width, left=13) for name, summary in commands.items())
    return "\n".join(("usage: robustdeq [--config FILE] COMMAND ...", "", *rows, "", _filled(advice, width)))


def help_of(name: str, width: int) -> str:
    """The help of one command: what it does, and its options without the settings within them.

    Args:
        name: of the command, and of its module and function.
        width: of the terminal.
    """
    tree = ast.parse(Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8"))
    function = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
    docstring, given = ast.get_docstring(function) or "", function.args
    told, said = parse(docstring, DocstringStyle.GOOGLE), explained(docstring)
    needed = [None] * (len(given.args) - len(given.defaults))
    words = [*zip(given.args, [*needed, *given.defaults], strict=True)]
    options = [*zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    first = [*starmap(_word, words)]
    written = zip([*first, *starmap(_option, options)], words + options, strict=True)
    rows = [(f"  {form}", said[argument.arg] + _default(default)) for form, (argument, default) in written]
    if given.kwarg is not None:
        rows.append(("  --…", said[given.kwarg.arg]))
    every = f"`robustdeq {name} --help-all` lists every setting, those behind … included."
    return "\n".join(
        [
            " ".join(["usage: robustdeq", name, *first, *["[options]"] * bool(options)]),
            "",
            *_paragraphs(told.short_description, told.long_description, width),
            *(_row(left, text, width) for left, text in rows),
            *["", _filled(every, width)] * bool(options),
        ]
    )


def explained(docstring: str) -> dict[str, str]:
    """What a docstring says of each parameter."""
    params = parse(docstring, DocstringStyle.GOOGLE).params
    return {parameter.arg_name: " ".join((parameter.description or "").split()) for parameter in params}


def short_form(name: str) -> str:
    """The short form of an option; empty where it has none."""
    return "-o" if name == "output" else f"-{name}" * (len(name) == 1)


def _paragraphs(short: str | None, long: str | None, width: int) -> Iterator[str]:
    for text in filter(None, (short, *(long or "").split("\n\n"))):
        yield _filled(" ".join(text.split()), width)
        yield ""


def _row(name: str, text: str, width: int, left: int = _LEFT) -> str:
    """A name, and beside it, or below where it is long, a text."""
    if len(name) + 1 < left:
        return _filled(text, width, name.ljust(left), left)
    return f"{name}\n{_filled(text, width, ' ' * left, left)}"


def _filled(text: str, width: int, begin: str = "", indent: int = 0) -> str:
    """The text in lines of a width, broken between words alone."""
    return TextWrapper(width, begin, " " * indent, break_on_hyphens=False).fill(text)


def _word(argument: ast.arg, default: ast.expr | None) -> str:
    """How what is no option is written: [NAME] where it may be left out, RUN ... where it may be repeated."""
    match argument.annotation:
        case ast.Subscript(value=ast.Name(id="list")):
            return f"{argument.arg.removesuffix('s').upper()} ..."
    return argument.arg.upper() if default is None else f"[{argument.arg.upper()}]"


def _option(argument: ast.arg, default: ast.expr | None) -> str:
    """How an option is written: a switch, one with a value, or one with settings of its own."""
    name = ", ".join(filter(None, (short_form(argument.arg), f"--{argument.arg}" * (len(argument.arg) > 1))))
    match argument.annotation, default:
        case _, ast.Call(func=ast.Name(id=kind)) if kind != "Path":
            return f"{name}.…"
        case ast.Name(id="bool"), _:
            return name
        case ast.Subscript(value=ast.Name(id="Literal"), slice=ast.Tuple(elts=choices)), _:
            return f"{name} {{{','.join(str(ast.literal_eval(choice)) for choice in choices)}}}"
    number = ast.unparse(argument.annotation).startswith("int") if argument.annotation else False
    return f"{name} {'N' if number else argument.arg.upper()}"


def _default(default: ast.expr | None) -> str:
    """The default in words, where the option's own text need not say it."""
    match default:
        case ast.Call(func=ast.Name(id="Path"), args=[ast.Constant(value=value)]) | ast.Constant(value=value):
            return "" if value is None or isinstance(value, bool) else f" [{value}]"
    return ""
