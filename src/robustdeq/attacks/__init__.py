"""Attacks: how a loss is climbed within a threat model."""

from robustdeq.attacks.pgd import FGSM, PGD
from robustdeq.attacks.threat import Norm, ThreatModel

__all__ = ["FGSM", "PGD", "Norm", "ThreatModel"]
