"""The one exception that stands for a mistake in the input rather than in the program, a check and a hint for it."""

import difflib
from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import TypeVar

Known = TypeVar("Known")


class InputError(ValueError):
    """Input that cannot be used: one sentence that names the culprit and the remedy.

    The command line prints the sentence alone and exits with status 2; in Python it is a `ValueError`.
    """


def require(condition: object, sentence: str) -> None:
    """Raise an `InputError` of this sentence unless the condition holds."""
    if not condition:
        raise InputError(sentence)


def check_counts(**counts: int) -> None:
    """Raise `InputError` where one of these is no positive whole number."""
    for name, count in counts.items():
        require(isinstance(count, Integral), f"{name} is {count!r}; give a whole number of 1 or more.")
        require(count >= 1, f"{name} is {count}; give 1 or more.")


def check_made(**given: object) -> None:
    """Raise `InputError` where one of these is a class in the place of what it makes."""
    for name, value in given.items():
        if isinstance(value, type):
            raise InputError(f"{name} is the class {value.__name__}; make one of it, {value.__name__}(…).")


def check_seed(seed: int) -> None:
    """Raise `InputError` where a seed is not such that every generator takes it."""
    require(0 <= seed < 2**63, f"seed is {seed}; give 0 or a positive number below 2^63.")


def check_choice(name: str, value: object, known: Iterable[str]) -> None:
    """Raise `InputError` where a setting is none of the known values."""
    choices = [str(choice) for choice in known]
    require(value in choices, f"{name} is {value!r}; choose one of {', '.join(map(repr, choices))}.")


def look_up(kind: str, name: str, known: Mapping[str, Known], otherwise: str | None = None) -> Known:
    """What is known by a name; raises `InputError`, with a hint as from `hint`, where nothing is."""
    if name not in known:
        raise InputError(f"there is no {kind} {name!r}; {hint(name, known, otherwise)}")
    return known[name]


def hint(word: str, known: Iterable[str], otherwise: str | None = None) -> str:
    """What may have been meant by a misspelt word.

    Args:
        word: what was written.
        known: what could have been.
        otherwise: what to say where nothing known is near; None names all that is known.
    """
    choices = list(known)
    near = difflib.get_close_matches(word, choices, n=1)
    if near:
        return f"did you mean {near[0]}?"
    return f"choose one of {', '.join(choices)}." if otherwise is None else otherwise
