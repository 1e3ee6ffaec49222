"""Plain values, as JSON holds them: read from a file, and held against the types that a dataclass declares."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import fields
from inspect import formatannotation
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from robustdeq.base.errors import require
from robustdeq.base.files import read_text

Made = TypeVar("Made")
_LARGEST = 2**63
_HALF = re.compile(r"\\ud[89a-f]", re.IGNORECASE)
"""How JSON writes half of a character, which no UTF-8 can hold; two make a whole one."""


def read_json(path: Path) -> Any:
    """What a JSON file holds; raises `OSError` as `read_text` does, `ValueError` where it is none."""
    return from_json(read_text(path))


def from_json(text: str) -> Any:
    """What a JSON text holds; raises `ValueError` where it is none, is nested too deeply, or has half a character."""
    try:
        found = json.loads(text)
        if _HALF.search(text):
            json.dumps(found, ensure_ascii=False).encode()
        return found
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def made_of(kind: type[Made], values: Mapping[str, Any], /, **others: Any) -> Made:
    """A dataclass made of plain values.

    Args:
        kind: the dataclass; arrays become its tuples.
        values: its settings by name, each of the type that is declared.
        others: further settings, which are not looked at.

    Raises:
        TypeError: a setting is missing, unknown or of another type.
    """
    kinds, settings = get_type_hints(kind), dict(values)
    for name in (field.name for field in fields(kind) if field.name in settings):  # pyright: ignore[reportArgumentType]
        if name in others:
            continue
        if not fits(settings[name], kinds[name]):
            raise TypeError(f"{name} is {settings[name]!r:.80}")
        if isinstance(settings[name], list) and get_origin(kinds[name]) is tuple:
            settings[name] = tuple(settings[name])
    return kind(**settings | others)


def check_fits(owner: str, values: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    """Raise `InputError` where a plain value is not of the type that is declared for its name.

    Args:
        owner: what the sentence calls what the values are for.
        values: by name.
        kinds: the types, by name.
    """
    for name, value in values.items():
        said = f"{name} of {owner} is {value!r:.80}; give {formatannotation(kinds[name])}."
        require(fits(value, kinds[name]), said)


def fits(value: Any, kind: Any) -> bool:
    """Whether a plain value is of a declared type; numbers are finite, and integers such as a machine holds."""
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin in (Union, UnionType):
        return any(fits(value, part) for part in parts)
    if kind in (int, float):
        whole = type(value) is int and abs(value) < _LARGEST
        return whole or (kind is float and type(value) is float and math.isfinite(value))
    if origin is tuple:
        inner = parts[0] if parts[-1] is ... else None
        return isinstance(value, list | tuple) and (
            all(fits(part, inner) for part in value)
            if inner is not None
            else len(value) == len(parts) and all(map(fits, value, parts))
        )
    if origin is list:
        return isinstance(value, list) and all(fits(part, parts[0]) for part in value)
    if origin in (dict, Mapping):
        return isinstance(value, dict) and all(fits(k, parts[0]) and fits(v, parts[1]) for k, v in value.items())
    return isinstance(value, origin or kind)
