"""Numbers, names and settings as every medium writes them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from robustdeq.base.plain import fits

_SUBSCRIPT = str.maketrans("0123456789n+", "₀₁₂₃₄₅₆₇₈₉ₙ₊")
_INDEX = re.compile(r"\b([zu])_(?:(\d+|n)\b|\{([\dn+]+)\})")
NORMS = {"Linf": "L∞"}


def number(value: float, logarithmic: bool = False) -> str:
    """A number with two decimals below 1, one below 1,000, none beyond; a dash where it is not finite.

    Args:
        value: the number.
        logarithmic: whether it stands among numbers that span orders of magnitude: two significant digits then.
    """
    if not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    if logarithmic:
        return f"{value:.2g}"
    return f"{value:.2f}" if abs(value) < 1 else f"{value:.1f}" if abs(value) < 1000 else f"{value:,.0f}"


def span(low: float, high: float, logarithmic: bool = False) -> str:
    """The two ends of an interval, such as "4.6–69.9" or "-1.0 to 2.0"; empty where one is not finite."""
    if not math.isfinite(low) or not math.isfinite(high):
        return ""
    return f"{number(low, logarithmic)}{' to ' if low < 0 else '–'}{number(high, logarithmic)}"


def percent(share: float) -> str:
    """A share in percent, with one decimal and no sign."""
    return f"{100 * share:.1f}"


def percents(ends: Float[np.ndarray, "two"]) -> str:
    """The two ends of an interval of shares, in percent."""
    low, high = ends
    return f"{percent(low)}–{percent(high)}"


def count(n: int, thing: str) -> str:
    """A number of things, such as "1 image" or "2,000 images"."""
    return f"{n:,} {thing}{'' if n == 1 else 's'}"


def measured(name: str, value: float) -> str:
    """A number behind a check: a p-value, a mean, a count, or else a share in percent."""
    if name == "p":
        return f"{value:.2g}"
    if name.startswith("mean "):
        return f"{value:.3g}"
    return f"{value:.0f}" if name in ("images", "operations") else f"{percent(value)} %"


def label(name: str) -> str:
    """The name with z_3, u_n and u_{n+1} set as z₃, uₙ and uₙ₊₁."""
    return _INDEX.sub(lambda found: found[1] + (found[2] or found[3]).translate(_SUBSCRIPT), name)


def slug(name: str) -> str:
    """The name with nothing that a file name, an address or a LaTeX label minds; empty where nothing is left."""
    return re.sub(r"[^0-9A-Za-z_.]+", "-", name).strip("-.")


def slugs(names: Iterable[str]) -> list[str]:
    """Such a name for each of some names, numbered where it would not be the only one."""
    found: list[str] = []
    for start in (slug(name) or "unnamed" for name in names):
        numbered = (f"{start}-{i}" for i in range(2, len(found) + 2))
        found.append(next(free for free in (start, *numbered) if free not in found))
    return found


def states(n: int) -> tuple[str, ...]:
    """The names of n states, the last of which is the final one."""
    return (*(label(f"z_{i}") for i in range(1, n)), "final")


def radius(attack: Mapping[str, Any]) -> str:
    """ε of the settings of an attack: "8/255" where it is a whole number of 8-bit levels in L∞; empty without one.

    Where the bounds are not those of images, [0, 1], there are no such levels.
    """
    eps = attack.get("eps")
    if eps is None or not fits(eps, float):
        return ""
    levels = 255 * eps
    images = attack.get("norm") == "Linf" and attack.get("bounds", [0, 1]) in ([0, 1], (0, 1))
    whole = levels and abs(levels - round(levels)) < 1e-6
    return f"{round(levels)}/255" if images and whole else f"{eps:g}"


def threat(settings: Mapping[str, Any]) -> str:
    """The threat model of an evaluation, such as "ε = 8/255 (L∞)"; empty where the settings name none."""
    attack = settings.get("attack")
    if not isinstance(attack, Mapping) or not radius(attack):
        return ""
    norm = str(attack.get("norm", ""))
    return f"ε = {radius(attack)} ({NORMS.get(norm, norm)})"
