"""Templates, filled: one HTML file that needs no network."""

from __future__ import annotations

from importlib.metadata import version
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

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
    shared = {"version": version("robustdeq"), "style": _text("style.css"), "script": _text(script)}
    return environment.get_template(template).render(shared, **values)


def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")
