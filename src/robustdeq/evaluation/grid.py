"""The white-box grid: every defense against every attack (paper, Tables 1, 2, 3 and 6).

Adversaries are made once per attempt and judged on all defenses in one forward pass. A defense's robustness is the
minimum over the columns (the paper's measure); its worst case counts a sample as robust only if every column fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from jaxtyping import Float, Int
from torch import Tensor, nn

from robustdeq.attacks import PGD
from robustdeq.base.progress import Report
from robustdeq.deq import DEQ
from robustdeq.evaluation.assemble import assemble
from robustdeq.evaluation.plan import deq_evaluation
from robustdeq.evaluation.protocol import (
    Estimators,
    Strict,
)
from robustdeq.evaluation.result import GridResult
from robustdeq.evaluation.store import FILE, Store, publish_manifest


def white_box_grid(
    deq: DEQ,
    x: Float[Tensor, "samples *image"],
    y: Int[Tensor, "samples"],
    protocol: str = "paper",
    attack: PGD | None = None,
    early: int | None = None,
    development: tuple[Tensor, Tensor] | None = None,
    estimators: Estimators | None = None,
    batch_size: int = 128,
    report: Report | None = None,
    strict: Strict | None = None,
    sources: Mapping[str, nn.Module] | None = None,
    folder: Path | None = None,
) -> GridResult:
    """Attack a model through every gradient and judge it under every defense.

    Args:
        deq: the model; it is evaluated in eval mode and left as it was.
        x: the images, pixels within the attack's bounds.
        y: their labels.
        protocol: `"paper"`, `"strict"`, `"ready-made"` (Table 1) or `"autoattack"` (Table 3).
        attack: what climbs the gradients; PGD-10 with ε = 8/255 and step 2/255 by default.
        early: the n of the early-state defense. None chooses, on `development`, the intermediate state that is most
            robust under the ready-made attack (paper, §5.2).
        development: images and labels apart from x, only needed when `early` is None.
        estimators: the settings of the estimated gradients.
        batch_size: how many images are attacked at once.
        report: called with the share of the work that is done, weighted by its cost, and what is under way.
        strict: how hard the strict protocol tries.
        sources: explicit networks whose adversaries the strict protocol transfers, by name.
        folder: where every finished attack on a batch is kept at once, so that a run that was interrupted goes on
            from there; None keeps results in memory only.

    Returns:
        The outcome of every sample.

    Raises:
        InputError: x or y cannot be used, there is no such protocol or state, nothing to choose `early` on, or the
            folder holds results of something else.
    """
    evaluation = deq_evaluation(
        deq, x, y, protocol, attack, early, development, estimators, batch_size, report, strict, sources
    )
    with Store.create(None if folder is None else folder / FILE, evaluation.manifest()) as store:
        publish_manifest(store)
        evaluation.run(store, report=report)
        if report is not None:
            report(1.0, "done")
        return assemble(store)
