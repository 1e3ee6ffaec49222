"""The packaged recipes: YAML files in this folder, each a whole configuration of `robustdeq train`."""

from __future__ import annotations

from pathlib import Path

from robustdeq.base.errors import InputError, hint

_FOLDER = Path(__file__).parent


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
