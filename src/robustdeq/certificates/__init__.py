"""Certificates: what no attack can do, beside what the attacks do."""

from robustdeq.certificates.certificate import Certificate, Certified
from robustdeq.certificates.interval import IntervalBounds
from robustdeq.certificates.lipschitz import Lipschitz
from robustdeq.certificates.smoothing import Smoothing
from robustdeq.certificates.spectral import logit_slopes

__all__ = ["Certificate", "Certified", "IntervalBounds", "Lipschitz", "Smoothing", "logit_slopes"]
