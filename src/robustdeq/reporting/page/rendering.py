"""Templates, filled: one HTML file that needs no network."""

from __future__ import annotations

import base64
import hashlib
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from robustdeq.reporting.wording import label

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
    environment.filters["label"] = label
    scripts = {"script": _text(script)} | {name: str(values[name]) for name in ("plotly",) if name in values}
    allowed = " ".join(f"'sha256-{_digest(text)}'" for text in scripts.values())
    shared = {"version": version("robustdeq"), "style": _text("style.css"), "allowed": Markup(allowed)}
    return environment.get_template(template).render(shared, **values | scripts)


def _digest(script: str) -> str:
    """How a content security policy names a script that stands in its page; browsers read every line end as LF."""
    text = script.replace("\r\n", "\n").replace("\r", "\n")
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")
