"""The defense × attack table with the outcome of every sample, and what is said about it."""

from __future__ import annotations

import html
import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from robustdeq.base.errors import InputError
from robustdeq.base.files import write_text
from robustdeq.base.plain import fits, read_json
from robustdeq.base.statistics import wilson_intervals
from robustdeq.evaluation.column import Role
from robustdeq.evaluation.diagnostics import Check
from robustdeq.evaluation.early import StateProfile
from robustdeq.evaluation.store import digits, parsed

SUMMARIES = ("clean", "minimum (paper)", "worst case", "worst case, low", "worst case, high", "certified")
"""The columns of the table of shares that are no attacks."""


@dataclass(frozen=True, repr=False, eq=False)
class GridResult:
    """The outcome of every sample under every attack and defense; printed, it is a table with a line per attack.

    Attributes:
        defenses: the names of the rows.
        columns: the names of the attacks.
        gradients: in words, what each column climbs; the strongest candidate where it was searched.
        beyond_paper: which columns the paper does not have.
        clean: whether each defense classifies each image correctly, (defenses, samples).
        per_sample: whether it still does under each attack, (defenses, columns, samples).
        withstood: whether it does under every adversary that was made, those of candidates that are not the strongest
            of their column included, (defenses, samples); None where nothing is known beyond `per_sample`.
        profiles: accuracy and residual along the trajectory, clean and under the ready-made attack.
        settings: what produced it.
        cumulative: which columns attacked only what had withstood all columns before, and so include those.
        errors: for each defense, on how many images its logits were not finite, clean or under some attack; each of
            them counts as not standing there.
        checks: what the attacks say about themselves.
        ids: the short names of the columns.
        climbed: the index of the strongest candidate of each column, None where all its attempts count.
        ready_made: which columns are the ready-made attack, which needs no thought about the solver.
        tried: for each column, how many samples stand behind each defense under each of its attempts.
        missing: why further columns of the protocol were not made, by name: the model lacks what they need.
        certified: which samples a certificate guarantees to stand in the first row; None where there is none.
        certificate: its title.
    """

    defenses: tuple[str, ...]
    columns: tuple[str, ...]
    gradients: tuple[str, ...]
    beyond_paper: tuple[bool, ...]
    clean: Bool[np.ndarray, "defenses samples"]
    per_sample: Bool[np.ndarray, "defenses columns samples"]
    withstood: Bool[np.ndarray, "defenses samples"] | None = None
    profiles: dict[str, StateProfile] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    cumulative: tuple[bool, ...] = ()
    errors: tuple[int, ...] = ()
    checks: tuple[Check, ...] = ()
    ids: tuple[str, ...] = ()
    climbed: tuple[int | None, ...] = ()
    ready_made: tuple[bool, ...] = ()
    tried: tuple[Int[np.ndarray, "defenses _"], ...] = ()
    missing: dict[str, str] = field(default_factory=dict)
    certified: Bool[np.ndarray, "samples"] | None = None
    certificate: str = ""

    @property
    def accuracy(self) -> Float[np.ndarray, "defenses columns"]:
        """The share of samples that stand, defense × attack."""
        return self.per_sample.mean(axis=2)

    @property
    def robustness(self) -> Float[np.ndarray, "defenses"]:
        """The minimum over the paper's columns: its measure of a defense; nan where there are none."""
        papers = self.accuracy[:, ~np.asarray(self.beyond_paper, bool)]
        return papers.min(axis=1) if papers.size else np.full(len(papers), math.nan)

    @property
    def standing(self) -> Bool[np.ndarray, "defenses samples"]:
        """Whether a sample is classified correctly, clean and under every adversary that was made."""
        shown = self.clean & self.per_sample.all(axis=1)
        return shown if self.withstood is None else shown & self.withstood

    @property
    def worst_case(self) -> Float[np.ndarray, "defenses"]:
        """The share of samples on which every attack fails, every candidate of a searched column included."""
        return self.standing.mean(axis=1)

    @property
    def intervals(self) -> Float[np.ndarray, "defenses columns two"]:
        """The Wilson 95 % interval of every accuracy."""
        return wilson_intervals(self.per_sample)

    @property
    def worst_case_intervals(self) -> Float[np.ndarray, "defenses two"]:
        """The Wilson 95 % interval of every worst case."""
        return wilson_intervals(self.standing)

    def check(self) -> None:
        """Raise `ValueError` where names are no text, or what is known of rows, columns and samples does not agree."""
        rows, columns, samples = self.per_sample.shape
        outcomes = (self.clean, self.standing, self.clean[:1] if self.certified is None else self.certified[None])
        said = (*self.defenses, *self.columns, *self.gradients, *self.ids, *self.missing.values(), self.certificate)
        plain = fits(self.settings, dict[str, Any]) and fits(self.errors, tuple[int, ...])
        plain = plain and fits(said, tuple[str, ...]) and fits(self.cumulative + self.ready_made, tuple[bool, ...])
        known = all(profile.accuracy and profile.residual for profile in self.profiles.values())
        if not (plain and known and samples and len({*self.defenses}) == rows and len(self.columns) == columns):
            raise ValueError("it is no table")
        if any(outcome.shape[1:] != (samples,) for outcome in outcomes):
            raise ValueError("its parts are about different images")

    def to_frame(self) -> pd.DataFrame:
        """One row per defense: clean, every attack, the paper's minimum, the worst case with its interval; shares."""
        frame = pd.DataFrame(self.accuracy, index=pd.Index(self.defenses, name="defense"), columns=list(self.columns))
        frame.insert(0, "clean", self.clean.mean(axis=1))
        frame["minimum (paper)"] = self.robustness
        frame["worst case"] = self.worst_case
        frame["worst case, low"], frame["worst case, high"] = self.worst_case_intervals.T
        if self.certified is not None:
            frame["certified"] = [float(self.certified.mean()), *[math.nan] * (len(frame) - 1)]
        return frame

    def __repr__(self) -> str:
        """The table, in %, and what it is about."""
        return f"{self._lines().to_string()}\n{self._about()}"

    def _repr_html_(self) -> str:
        """The same in a notebook."""
        return f"{self._lines().to_html()}<p>{html.escape(self._about())}</p>"

    def _lines(self) -> pd.DataFrame:
        """Clean, every attack, the worst case with its interval, and what is certified: a line each, in %."""
        shares = self.to_frame().dropna(axis=1, how="all")
        low, high = (100 * shares.pop(f"worst case, {end}") for end in ("low", "high"))
        lines = (100 * shares).map(lambda share: "" if math.isnan(share) else f"{share:.1f}")
        ends = zip(lines["worst case"], low, high, strict=True)
        lines["worst case"] = [f"{left} ({least:.1f}–{most:.1f})" for left, least, most in ends]
        return lines.T.rename_axis(index=None, columns="accuracy in %")

    def _about(self) -> str:
        attack, others = self.settings.get("attack"), [check.name for check in self.checks if not check.passed]
        within = f", {attack['norm']} ε = {attack['eps']:.4g}" if attack else ""
        warned = f"; checks not passed: {', '.join(others)}" if others else ""
        return f"{self.per_sample.shape[-1]} samples{within}{warned}"

    def to_csv(self) -> str:
        """The table of `to_frame` as CSV, in which no name is a formula for a spreadsheet."""
        return self.to_frame().rename(index=_no_formula, columns=_no_formula).to_csv()

    def to_dict(self) -> dict[str, Any]:
        """Everything, as plain lists and numbers; outcomes of samples as strings of 0 and 1."""
        return {
            "samples": self.clean.shape[1],
            "defenses": [
                {
                    "name": name,
                    "clean": float(self.clean[i].mean()),
                    "clean_per_sample": digits(self.clean[i]),
                    "minimum_paper": _finite(float(self.robustness[i])),
                    "worst_case": float(self.worst_case[i]),
                    "worst_case_per_sample": digits(self.standing[i]),
                    "worst_case_interval": self.worst_case_intervals[i].tolist(),
                    "errors": self.errors[i] if self.errors else 0,
                    "attacks": [
                        {
                            "id": self.ids[j] if self.ids else column,
                            "name": column,
                            "climbs": self.gradients[j],
                            "role": Role.BEYOND if self.beyond_paper[j] else Role.PAPER,
                            "ready_made": bool(self.ready_made and self.ready_made[j]),
                            "cumulative": bool(self.cumulative and self.cumulative[j]),
                            "accuracy": float(self.accuracy[i, j]),
                            "interval": self.intervals[i, j].tolist(),
                            "per_sample": digits(self.per_sample[i, j]),
                        }
                        for j, column in enumerate(self.columns)
                    ],
                }
                for i, name in enumerate(self.defenses)
            ],
            "missing": self.missing,
            **({} if self.certified is None else {"certified": self._certified()}),
            "checks": [asdict(check) for check in self.checks],
            "profiles": {
                name: {key: [_finite(value) for value in values] for key, values in asdict(profile).items()}
                for name, profile in self.profiles.items()
            },
            "settings": self.settings,
        }

    def _certified(self) -> dict[str, Any]:
        """What is certified of the first row, as plain values."""
        assert self.certified is not None
        return {
            "defense": self.defenses[0],
            "certificate": self.certificate,
            "accuracy": float(self.certified.mean()),
            "interval": wilson_intervals(self.certified).tolist(),
            "per_sample": digits(self.certified),
        }

    def save(self, path: str | Path) -> None:
        """Write the result to `path`, a `.json` file, and the table beside it as CSV, each whole or not at all."""
        path = Path(path)
        if path.suffix != ".json":
            raise InputError(f"the results are written as JSON; give a file that ends in .json instead of {path}.")
        write_text(path, json.dumps(self.to_dict(), indent=1) + "\n")
        write_text(path.with_suffix(".csv"), self.to_csv())

    @classmethod
    def read(cls, path: str | Path) -> GridResult:
        """Read what `save` wrote.

        Args:
            path: the `.json` file.

        Raises:
            InputError: the file cannot be read, or holds something else.
        """
        path = Path(path)
        try:
            plain = read_json(path)
            rows = plain["defenses"]
            attacks = rows[0]["attacks"]
            withstood = [parsed(row["worst_case_per_sample"]) for row in rows if "worst_case_per_sample" in row]
            found = cls(
                defenses=tuple(row["name"] for row in rows),
                columns=tuple(attack["name"] for attack in attacks),
                gradients=tuple(attack["climbs"] for attack in attacks),
                beyond_paper=tuple(attack["role"] != Role.PAPER for attack in attacks),
                clean=np.stack([parsed(row["clean_per_sample"]) for row in rows]),
                per_sample=np.stack([[parsed(found["per_sample"]) for found in row["attacks"]] for row in rows]),
                withstood=np.stack(withstood) if withstood else None,
                profiles={
                    name: StateProfile(**{key: [*map(_number, values)] for key, values in profile.items()})
                    for name, profile in plain["profiles"].items()
                },
                settings=plain["settings"],
                cumulative=tuple(attack["cumulative"] for attack in attacks),
                errors=tuple(row["errors"] for row in rows),
                checks=tuple(map(Check.from_plain, plain["checks"])),
                ids=tuple(attack["id"] for attack in attacks),
                ready_made=tuple(attack["ready_made"] for attack in attacks),
                missing=plain.get("missing", {}),
                certified=parsed(plain["certified"]["per_sample"]) if "certified" in plain else None,
                certificate=plain.get("certified", {}).get("certificate", ""),
            )
            found.check()
            return found
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}).") from error
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
            raise InputError(f"{path} holds no evaluation; make it with `robustdeq evaluate`.") from error


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _no_formula(name: str) -> str:
    """The name, after an apostrophe where a spreadsheet would compute it."""
    return f"'{name}" if name.startswith(("=", "+", "-", "@", "\t", "\r")) else name


def _finite(value: float) -> float | None:
    """The number, or None where JSON has none."""
    return value if math.isfinite(value) else None
