"""Templates, filled: one HTML file that needs no network."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from robustdeq.reporting.wording import label, percent

_FOLDER = files("robustdeq.reporting.page")


def rendered(template: str, script: str, **values: Any) -> str:
    """A page.

    Args:
        template: the name of its file.
        script: the name of the file of its script.
        values: what the template shows.
    """
    environment = Environment(
        loader=PackageLoader("robustdeq.reporting", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"label": label, "percent": percent, "prose": prose}
    environment.globals["number"] = itertools.count().__next__
    text = _text(script)
    allowed = Markup(f"'sha256-{_digest(text)}'")
    shared = {"version": version("robustdeq"), "style": _text("style.css"), "allowed": allowed, "script": text}
    return environment.get_template(template).render(shared, **values)


def prose(text: str) -> Markup:
    """A text with `code`, **what is stressed**, escapes and z_{N+1} set as Markdown and TeX would; else as it is."""
    shown = re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text)))
    shown = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", shown)
    shown = re.sub(r"\b([zu])_\{([^}]*)\}", r"\1<sub>\2</sub>", shown)
    return Markup(re.sub(r"\\([*_`])", r"\1", shown))


def _digest(script: str) -> str:
    """How a content security policy names a script that stands in its page; browsers read every line end as LF."""
    text = script.replace("\r\n", "\n").replace("\r", "\n")
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")
