"""Numbers as people write them: 0.25, or a fraction such as 8/255."""

from __future__ import annotations

from fractions import Fraction

from robustdeq.base.errors import InputError


def number(name: str, given: float | str) -> float:
    """A number that may be written as a fraction.

    Args:
        name: what it is, for the sentence of the error.
        given: the number, or what was written.

    Raises:
        InputError: it is no number.
    """
    try:
        return float(Fraction(given)) if isinstance(given, str) else given
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise InputError(f"{name} is {given!r}; give a number, or a fraction such as 8/255.") from error
