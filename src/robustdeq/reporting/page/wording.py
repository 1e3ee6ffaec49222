"""Numbers, names and settings as the page writes them."""

from __future__ import annotations

import html
import re
import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from robustdeq.evaluation import GridResult
from robustdeq.evaluation.protocol import Family

_SUBSCRIPT = str.maketrans("0123456789n+", "₀₁₂₃₄₅₆₇₈₉ₙ₊")
_INDEX = re.compile(r"\b([zu])_(?:(\d+|n)\b|\{([\dn+]+)\})")
_NORMS = {"Linf": "L∞"}
_READY_MADE = (
    f"{Family.UNROLLED}, final",
    f"{Family.BARE}, ready-made",
    f"{Family.IMPLICIT}, unrolled",
    f"{Family.NETWORK}, PGD",
)


def percent(share: float) -> str:
    """A share in percent, with one decimal and no sign."""
    return f"{100 * share:.1f}"


def interval(ends: Float[np.ndarray, "two"]) -> str:
    """The ends of an interval of shares in percent."""
    low, high = ends
    return f"{percent(low)}–{percent(high)}"


def estimate(share: float, ends: Float[np.ndarray, "two"]) -> str:
    """A share with its interval, in percent."""
    return f"{percent(share)} ({interval(ends)})"


def count(n: int, thing: str) -> str:
    """So many things."""
    return f"{n:,} {thing}{'' if n == 1 else 's'}"


def label(name: str) -> str:
    """The name with z_3, u_n and u_{n+1} set as z₃, uₙ and uₙ₊₁."""
    return _INDEX.sub(lambda found: found[1] + (found[2] or found[3]).translate(_SUBSCRIPT), name)


def states(n: int) -> tuple[str, ...]:
    """The names of n states, the last of which is the final one."""
    return (*(label(f"z_{i}") for i in range(1, n)), "final")


def wrapped(text: str, width: int) -> str:
    """The text for a chart, which reads markup: escaped, in lines of at most `width` letters."""
    return "<br>".join(map(html.escape, textwrap.wrap(text, width) or [""]))


def threat(settings: Mapping[str, Any]) -> str:
    """The threat model of an evaluation, such as "ε = 8/255 (L∞)"; empty where the settings name none."""
    attack = settings.get("attack")
    if not isinstance(attack, Mapping) or "eps" not in attack:
        return ""
    eps, norm = attack["eps"], str(attack.get("norm", ""))
    levels = 255 * eps
    whole = norm == "Linf" and levels and abs(levels - round(levels)) < 1e-6
    return f"ε = {f'{round(levels)}/255' if whole else f'{eps:g}'} ({_NORMS.get(norm, norm)})"


def ready_made(result: GridResult) -> int | None:
    """The column of the ready-made attack, the one that needs no thought about the solver; None where there is none."""
    found = (j for start in _READY_MADE for j, column in enumerate(result.columns) if column.startswith(start))
    return next(found, None)


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as one table, with dotted names."""
    rows = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            rows |= flat(value, f"{prefix}{name}.")
        else:
            rows[f"{prefix}{name}"] = str(value)
    return rows
