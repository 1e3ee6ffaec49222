"""The threat models of `robustdeq.threat`, under the name that attacks know them by."""

from robustdeq.threat import Norm, ThreatModel

__all__ = ["Norm", "ThreatModel"]
