"""What the package asks for, with its extras, and the installed distributions behind it.

python tests/requirements.py run         # the names of all that `make demo` installs
python tests/requirements.py develop     # and of all that `make install` adds
"""

import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution, packages_distributions
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
BUILT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = BUILT["project"]
CORE = [*map(Requirement, PROJECT["dependencies"])]
EXTRAS = {name: [*map(Requirement, asked)] for name, asked in PROJECT["optional-dependencies"].items()}
DEVELOPMENT = {name: EXTRAS.pop(name) for name in ("dev", "docs")}
DEVELOPMENT |= {name: [*map(Requirement, asked)] for name, asked in BUILT["dependency-groups"].items()}
ALL = EXTRAS.pop("all")
EDITABLE = [*map(Requirement, [*BUILT["build-system"]["requires"], "editables"])]
"""What an editable installation is built by."""
OF_CUDA = ("cuda-", "nvidia-", "triton")
"""What a CUDA build of torch brings along, under NVIDIA's own terms; the CPU build brings none of it."""


def names(requirements: Iterable[Requirement]) -> set[str]:
    return {canonicalize_name(requirement.name) for requirement in requirements}


def needed(requirements: Iterable[Requirement], known: set[str]) -> Iterator[Distribution]:
    """The installed distributions behind requirements, and behind theirs."""
    for requirement in requirements:
        name = canonicalize_name(requirement.name)
        extras = ["", *requirement.extras]
        applies = requirement.marker is None or any(requirement.marker.evaluate({"extra": one}) for one in extras)
        if (key := f"{name} {sorted(requirement.extras)}") in known or name.startswith(OF_CUDA) or not applies:
            continue
        known.add(key)
        try:
            found = distribution(name)
        except PackageNotFoundError:  # a build of torch without it
            continue
        yield found
        for further in map(Requirement, found.requires or []):
            asked = [one for one in extras if further.marker is None or further.marker.evaluate({"extra": one})]
            if asked:
                further.marker = None
                yield from needed([further], known)


def installed_with(*extras: str) -> tuple[set[str], set[str]]:
    """What is there if the package is installed with these extras alone: distributions, and not there: modules."""
    asked = [requirement for name in extras for requirement in EXTRAS[name]]
    there = {canonicalize_name(found.name) for found in needed([*CORE, *asked], set())} | {"robustdeq"}
    providers = packages_distributions().items()
    return there, {module for module, of in providers if not there & {*map(canonicalize_name, of)}}


def locked() -> dict[str, set[str]]:
    """What the lock files hold: all distributions that are installed, but for torch, whose builds differ by index."""
    chosen = {"run": [*CORE, *chain.from_iterable(EXTRAS.values()), *EDITABLE]}
    chosen["develop"] = [*chosen["run"], *chain.from_iterable(DEVELOPMENT.values())]
    run, develop = ({canonicalize_name(one.name) for one in needed(asked, set())} for asked in chosen.values())
    return {"run": run - {"torch"}, "develop": develop - run - {"torch"}}


if __name__ == "__main__":
    print(*sorted(locked()[sys.argv[1]]), sep="\n")
