"""Robust accuracy from both sides: what attacks leave standing above, what a certificate guarantees below.

One image that is certified and broken all the same shows that the attack's judge, the certificate or a solve is wrong.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Bool
from torch import nn

from robustdeq.base.errors import InputError, require
from robustdeq.base.provenance import tensor_fingerprint
from robustdeq.base.shapes import Labels, Pixels
from robustdeq.base.threat import ThreatModel
from robustdeq.certificates import Certified
from robustdeq.evaluation.diagnostics import Check, CheckVerdict
from robustdeq.evaluation.result import GridResult
from robustdeq.zoo.card import fingerprint

AGREEMENT = "attacks and certificate agree"


def guaranteed(
    certified: Certified, threat: ThreatModel, model: nn.Module, x: Pixels, y: Labels
) -> Bool[np.ndarray, "samples"]:
    """Which images a certificate guarantees to stand against attacks on the model as it is computed.

    Args:
        certified: certificates of that model, on the same images; taken at their word only where they have no settings.
        threat: of the attacks.
        model: that is attacked.
        x: the images.
        y: their labels.

    Raises:
        InputError: the certificates are of other images or of another model, or say nothing of this threat model.
    """
    if not np.array_equal(certified.labels, y.cpu().numpy()):
        raise InputError(
            f"the certificates are of {len(certified.labels)} other images than these {len(y)}; certify the same ones."
        )
    if not certified.of_model:
        raise InputError(f"the certificates cover {certified.covers}; give some of the model that is attacked.")
    of = {"weights": ("model", fingerprint(model)), "tensors": ("set of images", tensor_fingerprint(x, y))}
    for name, (what, here) in of.items():
        known = certified.settings.get(name) if certified.settings else here
        require(known == here, f"the certificates are of another {what}; certify what is attacked.")
    return certified.holds(certified.covering(threat, x[0].numel()), computed=True)


def bracketed(result: GridResult, certified: Certified, held: Bool[np.ndarray, "samples"]) -> GridResult:
    """The same result with what is guaranteed for its first row, and whether the attacks agree.

    Args:
        result: of attacks on a model.
        certified: certificates of the model.
        held: what is `guaranteed`.
    """
    broken, name = held & ~result.standing[0], result.defenses[0]
    numbers = {name: {"certified": float(held.mean()), "worst case": float(result.worst_case[0])}}
    if broken.any():
        verdict, sentence = (
            CheckVerdict.FAILED,
            f"Attacks break {broken.sum()} of {held.sum()} certified images: certificate or judge is wrong, or a solve "
            f"ended with a residual above {certified.tolerance or 0:.2g}.",
        )
    elif not held.any():
        verdict, sentence = CheckVerdict.TOO_FEW, "No image is certified at this ε."
    else:
        verdict, sentence = CheckVerdict.PASSED, f"No attack breaks one of the {held.sum()} certified images."
    check = Check(AGREEMENT, verdict, sentence, numbers)
    return replace(result, certified=held, certificate=certified.title, checks=(*result.checks, check))
