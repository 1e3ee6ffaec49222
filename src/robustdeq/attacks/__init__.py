"""Attacks: how a loss is climbed within a threat model."""

from robustdeq.attacks.autoattack import APGD, FAB, AutoAttack, Component, Square, TargetedAPGD, TargetedFAB
from robustdeq.attacks.joint import JointAttack
from robustdeq.attacks.judged import Judged
from robustdeq.attacks.pgd import FGSM, PGD
from robustdeq.attacks.threat import Norm, ThreatModel

__all__ = [
    "APGD",
    "FAB",
    "FGSM",
    "PGD",
    "AutoAttack",
    "Component",
    "JointAttack",
    "Judged",
    "Norm",
    "Square",
    "TargetedAPGD",
    "TargetedFAB",
    "ThreatModel",
]
