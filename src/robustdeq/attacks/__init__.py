"""Attacks: how a loss is climbed within a threat model."""

from robustdeq.attacks.autoattack import AutoAttack, Cascade
from robustdeq.attacks.components import APGD, FAB, Component, Square, TargetedAPGD, TargetedFAB
from robustdeq.attacks.continued import ContinuedPGD, Stages
from robustdeq.attacks.joint import JointAttack
from robustdeq.attacks.judged import Judged
from robustdeq.attacks.pgd import FGSM, PGD
from robustdeq.attacks.stopping import StoppingPGD
from robustdeq.base.threat import Norm, ThreatModel

__all__ = [
    "APGD",
    "FAB",
    "FGSM",
    "PGD",
    "AutoAttack",
    "Cascade",
    "Component",
    "ContinuedPGD",
    "JointAttack",
    "Judged",
    "Norm",
    "Square",
    "Stages",
    "StoppingPGD",
    "TargetedAPGD",
    "TargetedFAB",
    "ThreatModel",
]
