"""`robustdeq verify`: the adversaries that an evaluation kept, read, measured and judged again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from robustdeq.base.errors import require
from robustdeq.base.progress import progress_bar
from robustdeq.base.provenance import describe
from robustdeq.cli.console import console, say
from robustdeq.cli.device import device_named
from robustdeq.cli.subject import check_named, defenses_at, opened
from robustdeq.data import load as load_data
from robustdeq.deq import EntropyReduction
from robustdeq.evaluation.verification import Verification, usual_defenses, verified
from robustdeq.reporting import Table, read_evaluation, terminal


def verify(
    results: Path,
    network: str,
    *,
    data: str = "cifar10",
    weights: Path | None = None,
    model: dict[str, Any] | None = None,
    reduction: EntropyReduction = EntropyReduction(),  # noqa: B008
    defenses: dict[str, str] | None = None,
    double: bool = False,
    trust: bool = False,
    device: str = "auto",
) -> None:
    """Read, measure and judge again every adversary that an evaluation kept, and say what agrees with its results.

    Distances are computed in float64 without the code of the attacks. The command ends with status 2 where an adversary
    lies outside the threat model or a verdict is another than the one that was stored.

    Args:
        results: the folder of an evaluation with --save_adversaries, finished.
        network: that was evaluated, as for `robustdeq evaluate`.
        data: that it was evaluated on; see `robustdeq train --help`.
        weights: for FILE.py:NAME, a state dict for what it returns (safetensors, or .pt of tensors alone).
        model: for FILE.py:NAME, its keyword arguments, as in --model.width 64.
        reduction: input entropy reduction, for the protocol entropy.
        defenses: the further rows of the evaluation, by name, as they were given to it.
        double: judge the same adversaries in float64 as well, and say how many verdicts depend on the rounding.
        trust: let the code run that makes the model of a weights file, where that is somebody's own.
        device: cpu, cuda or auto.
    """
    check_named(network, weights, model, trust)
    beside, made = defenses_at(defenses or {}), read_evaluation(results)
    require(made.settings.get("beside", {}) == describe(beside), "the evaluation had other --defenses; give the same.")
    images = load_data(data).require("test").head(made.clean.shape[1])
    rows = usual_defenses(made.settings, reduction) | beside
    x, y = (tensor.to(device_named(device)) for tensor in images.tensors())
    subject = opened(network, images, weights, model, trust)
    with progress_bar(f"verifying {len(images)} images") as report:
        found = verified(results, subject.model.to(x.device), x, y, rows, double, report)
        report(1.0, "done")
    console.print(terminal(_table(found)))
    console.print(
        f"{found.files} files hold adversaries; the furthest is {found.furthest:.6g} from its image in {found.norm}, "
        f"and ε = {found.eps:.6g}."
    )
    for problem in found.problems:
        say(problem)
    require(not found.problems, f"{results} does not hold what it says, in {len(found.problems)} places.")
    console.print("Weights, images, labels, distances and verdicts agree with the results.")


def _table(found: Verification) -> Table:
    """The verdicts of each row."""
    columns = {"verdicts": found.verdicts, "not the store's": found.differing, "other in float64": found.rounded}
    known = {name: values for name, values in columns.items() if values is not None}
    rows = [[row, *(str(values[i]) for values in known.values())] for i, row in enumerate(found.rows)]
    return Table.of("defense", [*known], rows)
