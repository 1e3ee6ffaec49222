"""What somebody says of a model: the settings of an `entry.toml`, checked before anything is loaded."""

from __future__ import annotations

import math
import tomllib
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import get_type_hints

from robustdeq.base.errors import InputError, hint, require
from robustdeq.base.files import read_text
from robustdeq.base.numbers import number
from robustdeq.base.plain import fits
from robustdeq.base.threat import ThreatModel

CERTIFICATES = ("", "lipschitz", "interval", "smoothing")


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A model, where it comes from, and what is said of its robustness.

    Args:
        name: of its row.
        training: how it was trained, in a few words.
        network: a weights file beside the statement, the name of packaged weights, hf://OWNER/NAME or FILE.py:NAME.
        data: where the test images come from, as for `robustdeq evaluate`.
        images: how many of them, from the first.
        eps: the radius of the threat model, in the units of pixels; a number or a fraction in quotes, as "8/255".
        norm: in which it is measured.
        adversaries: a safetensors file beside the statement, one adversary for each image; empty where the model is
            certified alone.
        worst_case: how many of the images withstand them, in %.
        certificate: lipschitz, interval or smoothing; empty for none.
        sigma: the noise of smoothing.
        draws: how many noisy copies of an image vote there.
        reported: what the protocol of the model's own paper leaves, in %; nan where none is known.
        protocol: that protocol, in a few words.
        source: the address of a paper or of code.
        command: what made the adversaries.

    Raises:
        InputError: a setting is out of its range, or they do not fit together.
    """

    name: str
    training: str
    network: str
    data: str
    images: int
    eps: float | str
    norm: str
    adversaries: str = ""
    worst_case: float = math.nan
    certificate: str = ""
    sigma: float = 0.25
    draws: int = 10_000
    reported: float = math.nan
    protocol: str = ""
    source: str = ""
    command: str = ""

    def __post_init__(self) -> None:
        require(self.name.strip() and self.training.strip(), "name and training are empty; say what the model is.")
        require(self.images >= 1, f"images is {self.images}; give how many were attacked, from the first.")
        require(self.draws >= 1, f"draws is {self.draws}; give how many copies of an image vote.")
        require(
            self.certificate in CERTIFICATES, f"certificate is {self.certificate!r}; give {_either(CERTIFICATES[1:])}."
        )
        require(self.sigma > 0, f"sigma is {self.sigma}; give a positive standard deviation.")
        require(
            self.adversaries or self.certificate, "there is neither a file of adversaries nor a certificate; give one."
        )
        if self.adversaries and self.certificate == "smoothing":
            raise InputError("smoothing certifies a vote and not the model that is attacked; make it another entry.")
        for name in ("worst_case", "reported"):
            value = getattr(self, name)
            require(math.isnan(value) or 0 <= value <= 100, f"{name} is {value}; give a share of the images in %.")
        require(
            not self.adversaries or not math.isnan(self.worst_case), "say how many images withstand: worst_case, in %."
        )
        require(
            math.isnan(self.reported) == (not self.protocol), "give reported and its protocol together, or neither."
        )
        self.threat()

    def threat(self) -> ThreatModel:
        """The threat model."""
        return ThreatModel(number("eps", self.eps), self.norm)

    @classmethod
    def read(cls, path: Path) -> Statement:
        """Read an `entry.toml`.

        Args:
            path: the file.

        Raises:
            InputError: it cannot be read, or a setting is missing, unknown, of another type or out of its range.
        """
        try:
            given = tomllib.loads(read_text(path))
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}).") from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} is no TOML ({error}).") from error
        known = {setting.name: setting for setting in fields(cls)}
        for name in given:
            require(name in known, f"{path} says {name}, which means nothing here; {hint(name, known, 'take it out.')}")
        missing = [name for name, setting in known.items() if setting.default is MISSING and name not in given]
        require(not missing, f"{path} does not say {', '.join(missing)}; add it.")
        kinds = get_type_hints(cls)
        for name, value in given.items():
            wanted = "text" if kinds[name] is str else "a number"
            require(fits(value, kinds[name]), f"{path} says {name} = {value!r}; give {wanted}.")
        return cls(**given)


def _either(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
