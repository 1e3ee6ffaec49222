"""The one exception that stands for a mistake in the input rather than in the program, a check and a hint for it."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Input that cannot be used: one sentence that names the culprit and the remedy.

    The command line prints the sentence alone and exits with status 2; in Python it is a `ValueError`.
    """


def require(condition: object, sentence: str) -> None:
    """Raise an `InputError` of this sentence unless the condition holds."""
    if not condition:
        raise InputError(sentence)


def check_counts(**counts: int) -> None:
    """Raise `InputError` where one of these is not positive."""
    for name, count in counts.items():
        if count < 1:
            raise InputError(f"{name} is {count}; give 1 or more.")


def hint(word: str, known: Iterable[str], otherwise: str) -> str:
    """What may have been meant by a misspelt word.

    Args:
        word: what was written.
        known: what could have been.
        otherwise: what to say where nothing known is near.
    """
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {near[0]}?" if near else otherwise
