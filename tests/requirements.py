"""What the package asks for, with its extras, and the installed distributions behind it."""

import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CORE = [*map(Requirement, PROJECT["dependencies"])]
EXTRAS = {name: [*map(Requirement, asked)] for name, asked in PROJECT["optional-dependencies"].items()}
DEVELOPMENT = {name: EXTRAS.pop(name) for name in ("dev", "docs")}
ALL = EXTRAS.pop("all")
OF_CUDA = ("cuda-", "nvidia-")
"""What a CUDA build of torch brings along, under NVIDIA's own terms; the CPU build brings none of it."""


def names(requirements: Iterable[Requirement]) -> set[str]:
    return {canonicalize_name(requirement.name) for requirement in requirements}


def needed(requirements: Iterable[Requirement], known: set[str]) -> Iterator[Distribution]:
    """The installed distributions behind requirements, and behind theirs."""
    for requirement in requirements:
        name = canonicalize_name(requirement.name)
        extras = ["", *requirement.extras]
        applies = requirement.marker is None or any(requirement.marker.evaluate({"extra": one}) for one in extras)
        if name in known or name.startswith(OF_CUDA) or not applies:
            continue
        known.add(name)
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
