"""`robustdeq certify`: how far each image may be moved before a model's answer can change."""

from __future__ import annotations

import sys
from dataclasses import replace
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from robustdeq.base.errors import InputError
from robustdeq.base.progress import progress_bar
from robustdeq.base.threat import ThreatModel
from robustdeq.certificates import Certificate, IntervalBounds, Lipschitz, Smoothing
from robustdeq.cli.console import console
from robustdeq.cli.device import device_named
from robustdeq.cli.outputs import refuse_to_overwrite
from robustdeq.cli.subject import check_named, opened, short
from robustdeq.data import load as load_data
from robustdeq.reporting import certified_table, save_certified_figure, terminal
from robustdeq.zoo import fingerprint

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
        trust: let the code run that makes the model of a weights file, where that is somebody's own.
        batch_size: how many images are certified at once.
        device: cpu, cuda or auto.
        output: the folder for the results; by default runs/certify/NETWORK-DATA-CERTIFICATE.
        overwrite: replace the results in the folder.
    """
    check_named(network, weights, model, trust)
    chosen: Certificate = {"lipschitz": lipschitz, "interval": interval, "smoothing": smoothing}[certificate]
    radii = [_radius(given) for given in eps or _USUAL[chosen.norm.name]]
    images = load_data(data).require("test")
    images = images if n is None else images.head(n)
    subject = opened(network, images, weights, model, trust)
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
        "command": " ".join(["robustdeq", *sys.argv[1:]]),
        "robustdeq": version("robustdeq"),
    }
    found = replace(found, settings=found.settings | provenance)
    found.save(path)
    save_certified_figure(found, path.with_suffix(".png"))
    console.print(terminal(certified_table(found, radii)))
    console.print(f"The images are {images.source}. The results are in {folder}.")


def _radius(given: float | str) -> tuple[str, float]:
    """A radius as it was given, and as a number."""
    try:
        eps = float(Fraction(given))
    except (ValueError, ZeroDivisionError) as error:
        raise InputError(f"eps holds {given!r}; give numbers or fractions such as 8/255.") from error
    return str(given), ThreatModel(eps).eps
