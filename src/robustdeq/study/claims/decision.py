"""What became of the claims: their contrasts pooled over seeds, tested, and corrected for their number.

The contrasts of each seed are kept as evidence, under the titles of the statements.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from robustdeq.base.errors import require
from robustdeq.base.statistics import holm, paired_effect
from robustdeq.study.claims.statement import Seed, Statement
from robustdeq.study.evidence import Evidence
from robustdeq.study.finding import Finding
from robustdeq.study.study import Study


def decide(statements: Sequence[Statement], study: Study) -> Iterator[Finding]:
    """What became of the statements, over all seeds of a study; Holm's correction is over all of them.

    Args:
        statements: those that need more sizes than the scale has are left out.
        study: the study.

    Raises:
        InputError: a file of evidence is damaged, or the unrolled steps do not begin with 1 and ascend.
    """
    steps = study.estimators.steps
    require(
        [*steps] == sorted({1, *steps}),
        f"estimators.steps is {', '.join(map(str, steps))}, and the claims are about k = 1, the fewest and the most; "
        "give them in ascending order from 1.",
    )
    asked = [statement.put_to(study) for statement in statements if statement.sizes <= len(study.scale.sizes)]
    by_seed = [contrasts(asked, study, seed) for seed in range(study.seeds)]
    pooled = [np.stack([found.arrays[statement.title] for found in by_seed]) for statement in asked]
    effects = [paired_effect(contrast) for contrast in pooled]
    corrected = holm([effect.p for effect in effects])
    for statement, contrast, effect, p in zip(asked, pooled, effects, corrected, strict=True):
        seeds, images = contrast.shape
        yield Finding(
            statement.title,
            statement.sentence,
            statement.source,
            effect.mean,
            effect.low,
            effect.high,
            statement.unit,
            p,
            seeds,
            images,
            study.scale.name,
            tuple(experiment.name for experiment in statement.shown),
            tuple(found.code[statement.title] for found in by_seed),
        )


def contrasts(statements: Sequence[Statement], study: Study, seed: int) -> Evidence:
    """The contrast of every statement for one seed; what is kept is not measured again.

    Args:
        statements: what is asked.
        study: where models and evidence are kept.
        seed: added to that of the recipes.
    """
    evidence = Evidence.of(study, "claims", f"seed-{seed}")
    found = Seed(evidence.study, seed)
    for statement in statements:
        evidence.once(
            statement.title, (None,), lambda statement=statement: np.asarray(statement.contrast(found), float)
        )
    study.used.update(evidence.study.used)
    return evidence
