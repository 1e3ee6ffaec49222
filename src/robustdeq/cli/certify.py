"""`robustdeq certify`: how far each image may be moved before a model's answer can change."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool
from torch import nn

from robustdeq.base.errors import require
from robustdeq.base.numbers import number
from robustdeq.base.progress import progress_bar
from robustdeq.base.provenance import command_and_versions
from robustdeq.base.threat import ThreatModel
from robustdeq.certificates import Certificate, Certified, IntervalBounds, Lipschitz, Smoothing
from robustdeq.cli.console import console, say
from robustdeq.cli.device import device_named
from robustdeq.cli.outputs import refuse_to_overwrite
from robustdeq.cli.subject import check_named, opened, short
from robustdeq.data import Images
from robustdeq.data import load as load_data
from robustdeq.evaluation import CheckVerdict, GridResult
from robustdeq.evaluation.bracket import bracketed, guaranteed
from robustdeq.reporting import certified_table, read_evaluation, save_certified_figure, terminal
from robustdeq.zoo import fingerprint

Outcome = Bool[np.ndarray, "samples"]
_USUAL = {"L2": ("0.1", "0.25", "0.5", "1"), "Linf": ("1/255", "2/255", "8/255", "0.1")}


def certify(
    network: str,
    *,
    data: str = "cifar10",
    weights: Path | None = None,
    model: dict[str, Any] | None = None,
    n: int | None = None,
    certificate: Literal["lipschitz", "interval", "smoothing"] = "lipschitz",
    eps: list[float | str] | None = None,
    lipschitz: Lipschitz = Lipschitz(),  # noqa: B008
    interval: IntervalBounds = IntervalBounds(),  # noqa: B008
    smoothing: Smoothing = Smoothing(),  # noqa: B008
    attacked: list[Path] | None = None,
    trust: bool = False,
    batch_size: int = 64,
    device: str = "auto",
    output: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Certify how far each image may be moved before a model's answer can change.

    A certificate bounds robust accuracy from below, as attacks do from above; give its file to `evaluate` to see both.

    Args:
        network: as for `robustdeq evaluate`.
        data: where the test images come from; see `robustdeq train --help`.
        weights: for FILE.py:NAME, a state dict for what it returns (safetensors, or .pt of tensors alone).
        model: for FILE.py:NAME, its keyword arguments, as in --model.width 64.
        n: how many test images, from the first; all by default.
        certificate: lipschitz (L2, for monotone DEQs), interval (Linf, for monotone DEQs, best for contracting ones)
            or smoothing (L2, for the vote of any model among noisy copies).
        eps: the radii that are shown, as numbers or fractions such as 8/255, in a list as [0.1, 8/255].
        lipschitz: the settings of the Lipschitz bound.
        interval: the settings of interval bounds.
        smoothing: the settings of randomized smoothing.
        attacked: folders of evaluations of the same model on the same images, as [A, B], whose worst cases are shown
            above what is certified.
        trust: let the code run that makes the model of a weights file, where that is somebody's own.
        batch_size: how many images are certified at once.
        device: cpu, cuda or auto.
        output: the folder for the results; by default runs/certify/NETWORK-DATA-CERTIFICATE.
        overwrite: replace the results in the folder.
    """
    check_named(network, weights, model, trust)
    require(
        certificate != "smoothing" or not attacked,
        "certificates by smoothing cover the vote among noisy copies, not the model itself; leave --attacked out.",
    )
    chosen: Certificate = {"lipschitz": lipschitz, "interval": interval, "smoothing": smoothing}[certificate]
    radii = [_radius(given) for given in eps or _USUAL[chosen.norm.name]]
    images = load_data(data).require("test")
    images = images if n is None else images.head(n)
    subject = opened(network, images, weights, model, trust)
    evaluations = [_evaluation(run, subject.model, images) for run in attacked or ()]
    folder = output or Path("runs/certify") / f"{subject.name}-{short(data)}-{certificate}"
    path = folder / "certified.json"
    refuse_to_overwrite([path], overwrite)
    x, y = (tensor.to(device_named(device)) for tensor in images.tensors())
    with progress_bar(f"certifying {len(images)} images") as report:
        found = chosen.certify(subject.model.to(x.device), x, y, batch_size, report)
        report(1.0, "done")
    provenance = {
        "data": images.source,
        "images": images.fingerprint(),
        "weights": fingerprint(subject.model),
        **command_and_versions(),
    }
    found = replace(found, settings=found.settings | provenance)
    found.save(path)
    above = strictest(_left(result, found, subject.model, images) for result in evaluations) or None
    save_certified_figure(found, path.with_suffix(".png"), subject.name, above)
    console.print(terminal(certified_table(found, radii, above)))
    say(f"The images are {images.source}. The results are in {folder}.")


def _evaluation(folder: Path, model: nn.Module, images: Images) -> GridResult:
    """The evaluation in a folder; raises `InputError` where it is of another model or other images."""
    result = read_evaluation(folder)
    of = {"weights": ("model", fingerprint(model)), "fingerprint": ("set of images", images.fingerprint())}
    for name, (what, expected) in of.items():
        require(result.settings.get(name) == expected, f"{folder} is about another {what}; evaluate what is certified.")
    return result


def _left(result: GridResult, found: Certified, model: nn.Module, images: Images) -> tuple[float, Outcome]:
    """The radius of an evaluation in the norm of certificates, and what it leaves; they must agree on every image."""
    attack = result.settings["attack"]
    low, high = map(float, attack["bounds"])
    threat = ThreatModel(attack["eps"], attack["norm"], (low, high))
    x, y = images.tensors()
    check = bracketed(result, found, guaranteed(found, threat, model, x, y)).checks[-1]
    require(check.verdict is not CheckVerdict.FAILED, check.sentence)
    return found.covering(threat, x[0].numel()), result.standing[0]


def strictest(left: Iterable[tuple[float, Outcome]]) -> dict[float, Outcome]:
    """What evaluations leave within each radius: an image that fell within a smaller one falls there too.

    Args:
        left: the radius of each evaluation, and which images it leaves.
    """
    found: dict[float, Outcome] = {}
    for radius, outcome in sorted(left, key=itemgetter(0)):
        found[radius] = np.logical_and.reduce([outcome, *found.values()])
    return found


def _radius(given: float | str) -> tuple[str, float]:
    """A radius as it was given, and as a number."""
    return str(given), ThreatModel(number("eps", given)).eps
