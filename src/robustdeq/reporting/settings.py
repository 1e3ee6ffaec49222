"""The settings behind results, in words: values, objects, and what was measured on which images within which bound."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

from robustdeq.base.plain import fits
from robustdeq.reporting.wording import NORMS, count, radius, threat

_OBJECT = re.compile(r"[A-Z]\w*\(.*\)", re.DOTALL)
_MEMBER = re.compile(r"<\w+\.\w+: ('[^']*')>")


def plain(value: Any) -> Any:
    """A setting as plain values; what older results keep as the text of an object, `PGD(steps=10)`, as its settings."""
    if not isinstance(value, str) or not _OBJECT.fullmatch(value):
        return value
    try:
        return _plain(ast.parse(_MEMBER.sub(r"\1", value), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return value


def _plain(node: ast.expr) -> Any:
    match node:
        case ast.Call(func=ast.Name(id=name), args=[], keywords=settings) if all(own.arg for own in settings):
            return {"class": name} | {own.arg: _plain(own.value) for own in settings}
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return [*map(_plain, parts)]
    return ast.literal_eval(node)


def said(value: Any) -> str:
    """A setting in words, such as "PGD (ε 8/255, norm L∞, random start yes, bounds 0 and 1)"."""
    match plain(value):
        case None | "" | [] | ():
            return "none"
        case bool(truth):
            return "yes" if truth else "no"
        case float(number):
            return f"{number:g}"
        case list(parts) | tuple(parts):
            return " and ".join(map(said, parts))
        case Mapping() as settings:
            return _object(settings)
        case other:
            return NORMS.get(str(other), str(other))


def _object(settings: Mapping[str, Any]) -> str:
    """The name of a class, where there is one, and in parentheses its settings; lengths in L∞ in 8-bit levels."""
    name = str(settings.get("class", ""))
    lengths = {key: radius({**settings, "eps": settings[key]}) for key in ("eps", "step_size") if key in settings}
    others = {key: value for key, value in settings.items() if key != "class"}
    words = ", ".join(f"{spoken(key)} {lengths.get(key) or said(value)}" for key, value in others.items())
    return f"{name} ({words})" if name and words else name or words or "none"


def spoken(name: str) -> str:
    """The name of a setting in words."""
    return {"eps": "ε", "tol": "tolerance"}.get(name, name.replace("_", " ").replace(".", ": "))


def provenance(settings: Mapping[str, Any]) -> dict[str, str]:
    """All settings in words, by their names in words; what is empty is left out."""
    known = {key: value for key, value in settings.items() if value is not None and value != {} and value != []}
    return {spoken(key): said(value) for key, value in known.items()}


def attacked(settings: Mapping[str, Any]) -> str:
    """The attack and its threat model, such as "ε = 8/255 (L∞), 10 steps of 2/255"; empty where settings name none."""
    attack = plain(settings.get("attack"))
    bound = threat({"attack": attack})
    if not bound:
        return ""
    parts = [bound]
    steps, step_size = attack.get("steps"), radius({**attack, "eps": attack.get("step_size")})
    if fits(steps, int) and step_size:
        parts.append(f"{attack.get('class', 'PGD')} of {count(steps, 'step')} of {step_size}")
    if "protocol" in settings:
        parts.append(f"protocol {settings['protocol']}")
    return ", ".join(parts)


def models(settings: Mapping[str, Any]) -> str:
    """The model of an evaluation, by its name, its class and its size, or the models of a reproduction."""
    called = re.match(r"robustdeq evaluate ('[^']+'|[^\s-]\S*)", str(settings.get("command", "")))
    about, weights = settings.get("model"), settings.get("weights")
    parts = [called[1].strip("'")] if called else []
    if isinstance(about, Mapping):
        size = about.get("parameters")
        parts += [str(about.get("class")), count(size, "parameter") if isinstance(size, int) else ""]
    if isinstance(weights, Mapping) and weights:
        parts += [f"{name} {said(path)}" for name, path in weights.items()]
    elif settings.get("trained_on"):
        parts += [f"models of the scale {settings.get('scale')}, trained on {settings['trained_on']}"]
    return ", ".join(filter(None, parts))


def subject(settings: Mapping[str, Any]) -> str:
    """What was measured: the model, the images, and the attack; what is not known is left out."""
    return "; ".join(filter(None, (models(settings), str(settings.get("data", "")), attacked(settings))))
