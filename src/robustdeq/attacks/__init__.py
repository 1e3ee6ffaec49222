"""Attacks: how a loss is climbed within a threat model."""

from robustdeq.attacks.autoattack import AutoAttack, Cascade
from robustdeq.attacks.base import Attack, BallAttack, Cost
from robustdeq.attacks.components import APGD, FAB, Component, Square, TargetedAPGD, TargetedFAB
from robustdeq.attacks.continued import ContinuedPGD, Stages
from robustdeq.attacks.joint import JointAttack
from robustdeq.attacks.judged import Judged
from robustdeq.attacks.momentum import MomentumPGD
from robustdeq.attacks.pgd import FGSM, PGD
from robustdeq.attacks.slow_down import SlowDown
from robustdeq.attacks.stopping import StoppingPGD
from robustdeq.attacks.straight_through import StraightThrough
from robustdeq.attacks.targets import ByDistance, ByLogits, MultiTargeted, Order
from robustdeq.base.norms import L1, L2, Linf, Norm
from robustdeq.base.threat import ThreatModel

__all__ = [
    "APGD",
    "FAB",
    "FGSM",
    "L1",
    "L2",
    "PGD",
    "Attack",
    "AutoAttack",
    "BallAttack",
    "ByDistance",
    "ByLogits",
    "Cascade",
    "Component",
    "ContinuedPGD",
    "Cost",
    "JointAttack",
    "Judged",
    "Linf",
    "MomentumPGD",
    "MultiTargeted",
    "Norm",
    "Order",
    "SlowDown",
    "Square",
    "Stages",
    "StoppingPGD",
    "StraightThrough",
    "TargetedAPGD",
    "TargetedFAB",
    "ThreatModel",
]
