"""Every claim of the paper's text and what became of it, from what `robustdeq reproduce claims` has left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from robustdeq.study import Finding, Reproduction
from robustdeq.study.claims import cost, defended, estimates, fixed_point, obfuscation, vanilla
from robustdeq.study.claims.statement import Statement
from robustdeq.study.experiment import Experiment

_PARTS = (
    ("Fixed points", fixed_point, fixed_point.STRUCTURE),
    ("Obfuscated gradients", obfuscation, obfuscation.OBFUSCATION),
    ("Attacks and defenses", defended, defended.DEFENSES),
    ("Intermediate gradients", estimates, estimates.GRADIENTS),
    ("Without adversarial training", vanilla, vanilla.VANILLA),
    ("Cost", cost, cost.COST),
)
_HEAD = "| claim | where | verdict | effect | p |\n|---|---|---|--:|--:|"


def verdicts(file: Path) -> str:
    """The claims, a section for each module that tests some.

    Args:
        file: the stored findings.
    """
    study = Reproduction.read(file)
    found = {finding.title: finding for finding in study.findings}
    counted = Counter(str(finding.verdict) for finding in found.values())
    said = ", ".join(f"{number} × {verdict}" for verdict, number in counted.items())
    known = study.provenance
    measured = f"Scale {known['scale']}, {known['seeds']} trainings of each kind, {known['images']} images: {said}."
    parts = [f"{measured} Made by\n\n    {known['command']}\n\n{study.legend}"]
    for title, module, statements in _PARTS:
        rows = "\n".join(_rows(statements, found, file.parents[1]))
        where = f"Tested by `src/{module.__name__.replace('.', '/')}.py`."
        parts.append(f"### {title}\n\n{where}\n\n{_HEAD}\n{rows}")
    return "\n\n".join(parts)


def _rows(statements: tuple[Statement, ...], found: dict[str, Finding], results: Path) -> Iterator[str]:
    for statement in statements:
        shown = (_shown(experiment, results) for experiment in statement.shown)
        where = ", ".join(filter(None, (statement.section, *shown)))
        sentence = statement.sentence.replace("*", r"\*").replace("_", r"\_")
        finding = found.get(statement.title)
        outcome = _outcome(finding) if finding else "not tested: needs a larger DEQ | |"
        yield f"| {sentence} | {where} | {outcome} |"


def _shown(experiment: Experiment, results: Path) -> str:
    made = any(results.glob(f"reproduction-*/{experiment.name}.json"))
    return f"[{experiment.source}](reproduction/{experiment.name}.md)" if made else experiment.source


def _outcome(finding: Finding) -> str:
    effect, low, high = (f"{value:.3g}".replace("-", "−") for value in (finding.effect, finding.low, finding.high))
    return f"{finding.verdict} | {effect} ({low} to {high}) {finding.unit} | {finding.p:.2g}"
