"""What a certificate says: how far each image may be moved before the model's answer can change.

An attack bounds robust accuracy from above, a certificate from below; the truth lies between.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn

from robustdeq.base.errors import InputError, check_counts, require
from robustdeq.base.files import write_text
from robustdeq.base.norms import Norm, named
from robustdeq.base.plain import made_of, read_json
from robustdeq.base.progress import Report, silent
from robustdeq.base.provenance import describe, tensor_fingerprint
from robustdeq.base.shapes import Labels, Pixels
from robustdeq.base.statistics import wilson_interval
from robustdeq.base.threat import ThreatModel
from robustdeq.deq.modes import evaluating
from robustdeq.zoo.card import fingerprint


@dataclass(frozen=True, eq=False)
class Radii:
    """What a certificate found for a batch.

    Attributes:
        predicted: the class of each image, −1 where it abstains.
        exact: the radius within which the certified model keeps that class; 0 where nothing is certified.
        computed: the radius within which the model as it is computed keeps it.
        tolerance: what `computed` supposes of a solve: the greatest norm of z − f(z); None where it supposes nothing.
    """

    predicted: Integer[Tensor, "batch"]
    exact: Float[Tensor, "batch"]
    computed: Float[Tensor, "batch"]
    tolerance: float | None = None


@dataclass(frozen=True, eq=False)
class Certified:
    """Certified radii of a model on labelled images.

    Attributes:
        title: of the certificate.
        covers: what keeps its class within `radius`, in words.
        norm: in which the radii are measured.
        labels: of the images.
        predicted: the class that the model gives each image, −1 where it abstains.
        radius: of each image, in the units of pixels; 0 where nothing is certified.
        computed: the same for the model as it is computed, by solves whose residual is within the tolerance.
        tolerance: the greatest norm of z − f(z) of such a solve; None where any solve is covered.
        of_model: whether it is about the model itself, and not about one that is made of it.
        settings: those of the certificate, and what tells the model and the images from others.
        unbounded: whether it covers pixels outside [0, 1] too.
    """

    title: str
    covers: str
    norm: Norm
    labels: Integer[np.ndarray, "samples"]
    predicted: Integer[np.ndarray, "samples"]
    radius: Float[np.ndarray, "samples"]
    computed: Float[np.ndarray, "samples"]
    tolerance: float | None = None
    of_model: bool = True
    settings: dict[str, Any] = field(default_factory=dict)
    unbounded: bool = False

    @property
    def correct(self) -> Bool[np.ndarray, "samples"]:
        """Whether the model gives each image its label."""
        return self.predicted == self.labels

    def covering(self, threat: ThreatModel, entries: int) -> float:
        """The radius, in the certificate's norm, of the smallest ball that holds all of a threat model.

        Args:
            threat: the threat model.
            entries: of an image.

        Raises:
            InputError: no ball of the certificate's norm holds that of the threat model, or its pixels are not covered.
        """
        low, high = threat.bounds
        if not (self.unbounded or 0 <= low < high <= 1):
            raise InputError(
                f"the certificates cover pixels in [0, 1] and the attacks use [{low:g}, {high:g}]; certify by a "
                "Lipschitz bound, which holds for any."
            )
        norms = (self.norm.name, threat.measure.name)
        if norms[0] == norms[1] or norms in (("Linf", "L2"), ("Linf", "L1"), ("L2", "L1")):
            return threat.eps
        if norms == ("L2", "Linf"):
            return threat.eps * math.sqrt(entries)
        raise InputError(f"certificates in {norms[0]} say nothing of {norms[1]} attacks; give one in the same norm.")

    def save(self, path: str | Path) -> None:
        """Write it as JSON, whole or not at all."""
        path = Path(path)
        plain = {
            "title": self.title,
            "covers": self.covers,
            "norm": self.norm.name,
            "tolerance": self.tolerance,
            "of_model": self.of_model,
            "settings": self.settings,
            "unbounded": self.unbounded,
            **{name: getattr(self, name).tolist() for name in _PER_SAMPLE},
        }
        write_text(path, json.dumps(plain, indent=1) + "\n")

    @classmethod
    def read(cls, path: str | Path) -> Certified:
        """Read what `save` wrote; raises `InputError` where the file cannot be read or holds something else."""
        path = Path(path)
        try:
            plain = read_json(path)
            arrays = {name: np.array(plain[name], kind) for name, kind in _PER_SAMPLE.items()}
            if len({array.shape for array in arrays.values()}) > 1 or arrays["labels"].ndim != 1 or not plain["labels"]:
                raise ValueError("arrays of different lengths")
            if not all((arrays[name] >= 0).all() for name in ("radius", "computed")):
                raise ValueError("radii below 0")
            return made_of(cls, plain, **arrays, norm=named(plain["norm"]))
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}).") from error
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise InputError(f"{path} holds no certificates; make them with `robustdeq certify`.") from error

    def holds(self, eps: float, computed: bool = False) -> Bool[np.ndarray, "samples"]:
        """Whether each image is classified correctly however it is moved by up to ε."""
        radius = self.computed if computed else self.radius
        return self.correct & (radius >= eps) & ((radius > 0) | (eps == 0))

    def accuracy(self, eps: float, computed: bool = False) -> tuple[float, float, float]:
        """The share of images certified at ε, and its 95 % Wilson interval."""
        held = self.holds(eps, computed)
        return float(held.mean()), *wilson_interval(int(held.sum()), len(held))


_PER_SAMPLE = {"labels": np.int64, "predicted": np.int64, "radius": float, "computed": float}


class Certificate(ABC):
    """A way to certify models; subclass it as a frozen dataclass of settings.

    Attributes:
        title: what it is called in tables.
        covers: what keeps its class within the radius, in words.
        norm: in which radii are measured.
        of_model: whether it is about the model itself, and not about one that is made of it.
        unbounded: whether it covers pixels outside [0, 1] too.
    """

    title: str
    covers: str
    norm: Norm
    of_model: bool = True
    unbounded: bool = True

    @abstractmethod
    def radii(self, model: nn.Module, x: Sequence[Pixels], report: Report) -> list[Radii]:
        """What it finds, batch by batch; raises `InputError` where the model is not of a kind that it can certify.

        Args:
            model: in eval mode.
            x: the images in batches.
            report: called with the share of the work that is done, and what is under way.
        """

    def certify(
        self, model: nn.Module, x: Pixels, y: Labels, batch_size: int = 128, report: Report | None = None
    ) -> Certified:
        """Certify a model on images.

        Args:
            model: a DEQ of the kind that the certificate is for; evaluated in eval mode and left as it was.
            x: the images, in [0, 1].
            y: their labels.
            batch_size: how many are certified at once.
            report: called with the share of the work that is done, and what is under way.

        Returns:
            The radius of every image.

        Raises:
            InputError: the model is not of that kind, or the images cannot be used.
        """
        check_counts(batch_size=batch_size)
        require(len(x) > 0, "there is no image to certify; give at least one.")
        require(bool(((x >= 0) & (x <= 1)).all()), "x has pixels outside [0, 1]; scale them.")
        if y.shape != x.shape[:1] or y.is_floating_point():
            raise InputError(f"y has shape {tuple(y.shape)} for {len(x)} images; give one integer label each.")
        with evaluating(model), torch.no_grad():
            found = self.radii(model, x.split(batch_size), report or silent)
        exact, computed, predicted = (
            np.concatenate([getattr(part, name).cpu().numpy() for part in found])
            for name in ("exact", "computed", "predicted")
        )
        tolerances = {part.tolerance for part in found}
        return Certified(
            self.title,
            self.covers,
            self.norm,
            y.cpu().numpy(),
            predicted,
            exact.astype(float),
            computed.astype(float),
            tolerances.pop(),
            self.of_model,
            describe(self) | {"weights": fingerprint(model), "tensors": tensor_fingerprint(x, y)},
            self.unbounded,
        )
