"""The packaged recipes: YAML files in this folder, each a whole configuration of `robustdeq train`.

A recipe that names another as its `base` holds only what differs from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from robustdeq.base.errors import InputError, hint, require
from robustdeq.base.files import read_text

_FOLDER = Path(__file__).parent
_DEEPEST = 50


def recipe_names() -> list[str]:
    """The names of the packaged recipes."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def recipe_summary(name: str) -> str:
    """What a packaged recipe says of itself in its first line."""
    first, *_ = locate_recipe(name).read_text(encoding="utf-8").splitlines()
    return first.removeprefix("# ")


def locate_recipe(name: str) -> Path:
    """The file of a recipe.

    Args:
        name: of a packaged recipe, or a YAML file of one's own.

    Raises:
        InputError: there is none.
    """
    packaged, own = _FOLDER / f"{name}.yaml", Path(name)
    if name in recipe_names():
        return packaged
    if own.suffix in (".yaml", ".yml") and own.is_file():
        return own
    otherwise = f"choose one of {', '.join(recipe_names())}, or give a YAML file."
    raise InputError(f"there is no recipe {name!r}; {hint(name, recipe_names(), otherwise)}")


def read_recipe(name: str, derived: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The settings in a recipe, with those of its base where it has one.

    Args:
        name: of a packaged recipe, or a YAML file of one's own.
        derived: the recipes that build on this one.

    Raises:
        InputError: there is none, it holds no settings, or it builds on itself.
    """
    path = locate_recipe(name)
    require(path not in derived, f"the recipe {name} builds on itself; give it another base.")
    try:
        text = read_text(path)
        check_yaml(text)
        settings = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{path} is no YAML ({' '.join(str(error).split())}); correct it.") from error
    if not isinstance(settings, dict):
        raise InputError(f"{path} holds no settings; write lines such as `model: small`.")
    base = settings.pop("base", None)
    return settings if base is None else _overridden(read_recipe(str(base), (*derived, path)), settings)


def check_yaml(text: str) -> None:
    """Raise `yaml.YAMLError` where a text is no YAML, is deep, or has aliases, which can stand for billions."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError(f"it has the alias *{event.anchor}: write out what that stands for")
        if depth > _DEEPEST:
            raise yaml.YAMLError("it is nested too deeply")


def _overridden(base: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The base with other settings, group by group; a choice of a class replaces the whole group."""
    merged = dict(base)
    for name, value in settings.items():
        nested = isinstance(value, dict) and isinstance(base.get(name), dict) and "class_path" not in value
        merged[name] = _overridden(base[name], value) if nested else value
    return merged
