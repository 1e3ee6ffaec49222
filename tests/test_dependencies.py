"""Every dependency is declared, has a reason, and a licence that lets anybody use what is built on it."""

import ast
import re
import sys
from importlib.metadata import Distribution, packages_distributions
from itertools import chain

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from requirements import CORE, DEVELOPMENT, EXTRAS, ROOT, locked, names, needed

TO_RUN = [*CORE, *chain.from_iterable(EXTRAS.values())]
ALLOWED = {
    *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "ISC", "LLVM-exception", "MIT"),
    *("MIT-CMU", "MPL-2.0", "PSF-2.0", "Zlib"),
    *("Apache Software License", "BSD License", "3-Clause BSD License", "ISC License (ISCL)", "MIT License"),
    *("Mozilla Public License 2.0 (MPL 2.0)", "Python Software Foundation License"),
}
"""Names of the SPDX and of the classifiers that came before them."""


def licences(found: Distribution) -> set[str]:
    """What a distribution says it may be used under."""
    said = found.metadata
    classified = {line.split(" :: ")[-1] for line in said.get_all("Classifier", []) if line.startswith("License :: ")}
    if classified and "License-Expression" not in said:
        return classified
    expression = said.get("License-Expression") or said.get("License") or "none"
    return {part.strip(" ()") for part in re.split(r" AND | OR | WITH ", expression)}


@pytest.mark.parametrize(("heading", "groups"), [("to run", {"core": CORE, **EXTRAS}), ("to develop", DEVELOPMENT)])
def test_every_dependency_has_a_reason(heading: str, groups: dict[str, list[Requirement]]) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = text.partition(f"| {heading} | extra | what for |\n|---|---|---|\n")[2].partition("\n\n")[0].splitlines()
    known = [re.fullmatch(r"\| (\S+) \| ([\w, ]+) \| (.+) \|", row).groups() for row in rows]  # pyright: ignore
    written = sorted((name, extra) for name, extras, _ in known for extra in extras.split(", "))
    assert written == sorted((name, extra) for extra, asked in groups.items() for name in names(asked))
    assert len({name for name, *_ in known}) == len(rows)


def test_every_import_is_declared() -> None:
    imported = set()
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition(".")[0])
    imported -= {*sys.stdlib_module_names, "robustdeq"}
    providers = packages_distributions()
    undeclared = {name for name in imported if not {*map(canonicalize_name, providers[name])} & names(TO_RUN)}
    assert undeclared == {"torchdeq"}  # imported where a model of it was given or is measured


def test_whatever_is_installed_to_run_may_be_used_by_anybody() -> None:
    found = {one.name: licences(one) for one in needed(TO_RUN, set())}
    assert len(found) > len(TO_RUN)
    assert {name: said for name, said in found.items() if not said <= ALLOWED} == {}


@pytest.mark.parametrize("part", ["run", "develop"])
def test_whatever_is_installed_is_held_against_a_digest(part: str) -> None:
    written = (ROOT / "locked" / f"{part}.txt").read_text(encoding="utf-8").replace("\\\n", "")
    digests = {pin: hashes for pin, *hashes in map(str.split, written.splitlines())}
    constraints = re.findall(r"^(\S+)(==\S+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    pinned = {canonicalize_name(name): f"{canonicalize_name(name)}{version}" for name, version in constraints}
    assert {pinned[name] for name in locked()[part]} <= digests.keys() <= {*pinned.values()}
    assert all(re.fullmatch(r"(--hash=sha256:[0-9a-f]{64} ?)+", " ".join(hashes)) for hashes in digests.values())
