"""The judgement of a statement: every number is measured here, from the model and the adversaries themselves."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import nn

from robustdeq.attacks import PGD
from robustdeq.attacks.losses import correct
from robustdeq.base.errors import InputError
from robustdeq.base.progress import Report
from robustdeq.base.shapes import Labels, Pixels
from robustdeq.certificates import Certificate, Certified
from robustdeq.deq import DEQ, Defended, FinalState
from robustdeq.deq.defenses import as_deployed
from robustdeq.deq.modes import evaluating
from robustdeq.evaluation import CheckVerdict, Estimators, GridResult, Network, WorstCase, measure, state_profile
from robustdeq.leaderboard.entry import Entry
from robustdeq.leaderboard.statement import Statement

_FEW = Estimators(steps=(1,), dampings=(1.0,), states=1)
SHORT = WorstCase(estimators=_FEW, steps=10, restarts=2, apgd_steps=20, targets=3, queries=100, probe_images=32)
"""How hard our own attacks try, unless more is asked for."""
STRONGER = 0.02
"""The share of images, at most, that our own short attacks may break and the submitted adversaries leave."""
_AGREEMENT = 0.5


def judged(
    statement: Statement,
    model: nn.Module,
    x: Pixels,
    y: Labels,
    adversaries: Pixels | None,
    certificate: Certificate | None,
    effort: WorstCase = SHORT,
    batch_size: int = 64,
    report: Report | None = None,
    **known: Any,
) -> Entry:
    """The row of a model.

    Its adversaries are judged anew; attacks of ours must not break many images that they leave, and the row
    counts what either breaks. A certificate is computed anew.

    Args:
        statement: what is said.
        model: in eval mode.
        x: the images.
        y: their labels.
        adversaries: one for each image; None where the model is certified alone.
        certificate: what certifies it; None for nothing.
        effort: how hard our own attacks try.
        batch_size: how many images are attacked at once.
        report: called with the share of the work that is done, and what is under way.
        known: further attributes of the entry: `data` and `provenance`.

    Raises:
        InputError: an adversary is outside the threat model, they leave another share than is said, or short attacks of
            ours break many images that they leave.
    """
    certified = None if certificate is None else certificate.certify(model, x, y, batch_size, report)
    held = None if certified is None else _held(certified, statement, x)
    described = {
        "name": statement.name,
        "training": statement.training,
        "eps": statement.threat().eps,
        "norm": statement.norm,
        "certified": held,
        "certificate": "" if certified is None else certified.title,
        "reported": None if math.isnan(statement.reported) else statement.reported,
        "protocol": statement.protocol,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        **_solve(model, x, y, batch_size),
        "source": statement.source,
        "command": statement.command,
    }
    if adversaries is None:
        assert certified is not None
        return Entry(**described, **known, clean=certified.correct, ready_made=None, standing=None)
    left = _left(statement, model, x, y, adversaries, batch_size)
    eps = statement.threat().eps
    attack = PGD(eps, eps / 4 or 1.0, steps=10, norm=statement.norm)
    result = measure(
        model, x, y, batch_size=batch_size, certified=certified, report=report, **_attacked(model, attack, effort)
    )
    _compare(result, left)
    standing = result.standing[0] & left
    if held is not None and (broken := held & ~standing).any():
        raise InputError(
            f"{broken.sum()} certified images are broken: certificate, model or judge is wrong; report it."
        )
    return Entry(
        **described,
        **known,
        clean=result.clean[0],
        ready_made=result.per_sample[0, result.ready_made.index(True)] if any(result.ready_made) else None,
        standing=standing,
        failed=tuple(check.name for check in result.checks if check.verdict is CheckVerdict.FAILED),
    )


def _attacked(model: nn.Module, attack: PGD, effort: WorstCase) -> dict[str, Any]:
    """The protocol and the row of our own attacks: those on a DEQ, as it is deployed, or those on any network."""
    if not isinstance(model, DEQ):
        return {"protocol": Network(attack)}
    return {"protocol": replace(effort, attack=attack), "defenses": {"final": FinalState()}}


def _solve(model: nn.Module, x: Pixels, y: Labels, batch_size: int) -> dict[str, Any]:
    """What a solve costs and where it ends; nothing for a network without one."""
    if not isinstance(model, DEQ):
        return {"evaluations": None, "residual": None}
    residual = state_profile(model, x, y, batch_size).residual[-1]
    finite = residual if math.isfinite(residual) else None
    return {"evaluations": FinalState().evaluations(model), "residual": finite}


def _held(certified: Certified, statement: Statement, x: Pixels) -> Bool[np.ndarray, "samples"]:
    eps = certified.covering(statement.threat(), x[0].numel())
    return certified.holds(eps, computed=True)


def _left(
    statement: Statement, model: nn.Module, x: Pixels, y: Labels, adversaries: Pixels, batch_size: int
) -> Bool[np.ndarray, "samples"]:
    """Which images withstand the submitted adversaries, after all that can be wrong with these was ruled out."""
    if adversaries.shape != x.shape:
        raise InputError(
            f"the adversaries have shape {tuple(adversaries.shape)} and the images {tuple(x.shape)}; give one for each."
        )
    adversaries = adversaries.to(x)
    statement.threat().check_adversaries(adversaries, x)
    judge = Defended(model, as_deployed(model))
    with evaluating(judge), torch.no_grad():
        parts = zip(x.split(batch_size), adversaries.split(batch_size), y.split(batch_size), strict=True)
        found = [correct(judge(clean), labels) & correct(judge(moved), labels) for clean, moved, labels in parts]
    left = torch.cat(found).cpu().numpy()
    share = 100 * left.mean()
    if abs(share - statement.worst_case) > max(_AGREEMENT, 100 / len(left)):
        raise InputError(
            f"worst_case is {statement.worst_case:g} %, and {left.sum()} of {len(left)} images ({share:.1f} %) "
            "withstand the adversaries here; say what they leave."
        )
    return left


def _compare(result: GridResult, left: Bool[np.ndarray, "samples"]) -> None:
    """Raise `InputError` where our own attacks break many images that the adversaries leave."""
    broken = left & ~result.standing[0]
    if broken.sum() > max(1, STRONGER * left.sum()):
        raise InputError(
            f"our own attacks break {broken.sum()} of {left.sum()} images that the adversaries leave; "
            "attack harder, on what still stands."
        )
