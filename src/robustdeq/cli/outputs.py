"""Where a command may write: in a folder, and over earlier results only when told to."""

from __future__ import annotations

from pathlib import Path

from robustdeq.base.errors import InputError

_WAY_ON = "choose another --output, or pass --overwrite"


def refuse_to_overwrite(paths: list[Path], overwrite: bool, way_on: str = _WAY_ON) -> None:
    """Raise `InputError` with a way on where one of the files exists, unless --overwrite allows to replace it."""
    for path in paths:
        refuse_file(path.parent)
        if path.exists() and not overwrite:
            raise InputError(f"{path} exists already; {way_on}.")


def refuse_file(folder: Path) -> None:
    """Raise `InputError` where a folder, or one that it lies in, is a file."""
    if any(place.exists() and not place.is_dir() for place in (folder, *folder.parents)):
        raise InputError(f"{folder} is no folder; choose another --output.")
