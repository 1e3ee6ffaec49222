"""Code of others by its import path: it runs because it was asked for by name."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from robustdeq.base.errors import InputError, hint, require

_PATH = re.compile(r"(?P<place>.+\.py|\w+(?:\.\w+)*):(?P<name>[^\W\d]\w*)")


def is_import_path(text: str) -> bool:
    """Whether a text is `FILE.py:NAME` or `package.module:NAME`."""
    return _PATH.fullmatch(text) is not None


def imported(path: str) -> Any:
    """What an import path names; the code of its module runs.

    Args:
        path: `FILE.py:NAME`, with the folder of the file open to its imports, or `package.module:NAME`.

    Raises:
        InputError: it is no import path, there is no such file, module or name, or the module cannot be run.
    """
    found = _PATH.fullmatch(path)
    if found is None:
        raise InputError(f"{path!r} is no import path; give FILE.py:NAME or package.module:NAME.")
    place, name = found["place"], found["name"]
    try:
        module = _module_of(Path(place)) if place.endswith(".py") else import_module(place)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{place} cannot be imported ({reason(error)}).") from error
    names = [known for known, value in vars(module).items() if callable(value) and not known.startswith("_")]
    if not hasattr(module, name):
        raise InputError(f"{place} has no {name!r}; {hint(name, names)}")
    return getattr(module, name)


def _module_of(file: Path) -> Any:
    """The module in a file, imported once for each file as it is."""
    require(file.is_file(), f"there is no file {file}; give FILE.py:NAME or package.module:NAME.")
    file = file.resolve()
    key = f"robustdeq_{file.stem}_{hashlib.sha256(str(file).encode() + file.read_bytes()).hexdigest()[:12]}"
    if key not in sys.modules:
        spec = importlib.util.spec_from_file_location(key, file)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[key] = importlib.util.module_from_spec(spec)
        sys.path.insert(0, str(file.parent))
        try:
            spec.loader.exec_module(sys.modules[key])
        except BaseException:
            del sys.modules[key]
            raise
        finally:
            sys.path.remove(str(file.parent))
    return sys.modules[key]


def reason(error: BaseException) -> str:
    """What went wrong in the code of others, in one line."""
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
