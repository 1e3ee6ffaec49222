"""The white-box grid: every defense against every attack (paper, Tables 2, 3 and 6).

Adversaries are made once per gradient and judged on all defenses in one forward pass. A defense's robustness is the
minimum over the columns (the paper's measure); its worst case counts a sample as robust only if every column fails.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from robustdeq.attacks import PGD
from robustdeq.attacks.pgd import correct
from robustdeq.defenses import Defense, EarlyState, EnsembleState, FinalState, defended_logits
from robustdeq.errors import InputError
from robustdeq.evaluation.profile import StateProfile, most_robust_state, state_profile
from robustdeq.evaluation.protocol import Column, Estimators, Family, protocol_named
from robustdeq.evaluation.statistics import wilson_intervals
from robustdeq.files import write_text
from robustdeq.gradients import Gradient, Surrogate
from robustdeq.models import DEQ
from robustdeq.models.deq import evaluating
from robustdeq.progress import Report


@dataclass(frozen=True)
class GridResult:
    """The outcome of every sample under every attack and defense.

    Attributes:
        defenses: the names of the rows.
        columns: the names of the attacks.
        gradients: the gradient behind each column, the strongest candidate where it was searched.
        beyond_paper: which columns the paper does not have.
        clean: whether each defense classifies each image correctly, (defenses, samples).
        per_sample: whether it still does under each attack, (defenses, columns, samples).
        profiles: accuracy and residual along the trajectory, clean and under the ready-made attack.
        settings: what produced it.
    """

    defenses: tuple[str, ...]
    columns: tuple[str, ...]
    gradients: tuple[str, ...]
    beyond_paper: tuple[bool, ...]
    clean: Bool[np.ndarray, "defenses samples"]
    per_sample: Bool[np.ndarray, "defenses columns samples"]
    profiles: dict[str, StateProfile] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def accuracy(self) -> Float[np.ndarray, "defenses columns"]:
        """The share of samples that stand, defense × attack."""
        return self.per_sample.mean(axis=2)

    @property
    def robustness(self) -> Float[np.ndarray, "defenses"]:
        """The minimum over the paper's columns: its measure of a defense."""
        return self.accuracy[:, ~np.asarray(self.beyond_paper)].min(axis=1)

    @property
    def standing(self) -> Bool[np.ndarray, "defenses samples"]:
        """Whether a sample is classified correctly, clean and under every single attack."""
        return self.clean & self.per_sample.all(axis=1)

    @property
    def worst_case(self) -> Float[np.ndarray, "defenses"]:
        """The share of samples on which every attack fails."""
        return self.standing.mean(axis=1)

    @property
    def intervals(self) -> Float[np.ndarray, "defenses columns two"]:
        """The Wilson 95 % interval of every accuracy."""
        return wilson_intervals(self.per_sample)

    @property
    def worst_case_intervals(self) -> Float[np.ndarray, "defenses two"]:
        """The Wilson 95 % interval of every worst case."""
        return wilson_intervals(self.standing)

    def to_frame(self) -> pd.DataFrame:
        """One row per defense: clean, every attack, the paper's minimum, the worst case with its interval; shares."""
        frame = pd.DataFrame(self.accuracy, index=pd.Index(self.defenses, name="defense"), columns=list(self.columns))
        frame.insert(0, "clean", self.clean.mean(axis=1))
        frame["minimum (paper)"] = self.robustness
        frame["worst case"] = self.worst_case
        frame["worst case, low"], frame["worst case, high"] = self.worst_case_intervals.T
        return frame

    def to_dict(self) -> dict[str, Any]:
        """Everything, as plain lists and numbers; outcomes of samples as strings of 0 and 1."""

        def digits(outcomes: np.ndarray) -> str:
            return "".join(map(str, outcomes.astype(int)))

        return {
            "samples": self.clean.shape[1],
            "defenses": [
                {
                    "name": name,
                    "clean": float(self.clean[i].mean()),
                    "clean_per_sample": digits(self.clean[i]),
                    "minimum_paper": float(self.robustness[i]),
                    "worst_case": float(self.worst_case[i]),
                    "worst_case_interval": self.worst_case_intervals[i].tolist(),
                    "attacks": [
                        {
                            "name": column,
                            "gradient": self.gradients[j],
                            "beyond_paper": self.beyond_paper[j],
                            "accuracy": float(self.accuracy[i, j]),
                            "interval": self.intervals[i, j].tolist(),
                            "per_sample": digits(self.per_sample[i, j]),
                        }
                        for j, column in enumerate(self.columns)
                    ],
                }
                for i, name in enumerate(self.defenses)
            ],
            "profiles": {name: asdict(profile) for name, profile in self.profiles.items()},
            "settings": self.settings,
        }

    def save(self, path: str | Path) -> None:
        """Write the result to `path`, a `.json` file, and the table beside it as CSV, each whole or not at all."""
        path = Path(path)
        if path.suffix != ".json":
            raise InputError(f"the results are written as JSON; give a file that ends in .json instead of {path}.")
        write_text(path, json.dumps(self.to_dict(), indent=1) + "\n")
        write_text(path.with_suffix(".csv"), self.to_frame().to_csv())


def white_box_grid(
    deq: DEQ,
    x: Float[Tensor, "samples *image"],
    y: Int[Tensor, "samples"],
    protocol: str = "paper",
    attack: PGD | None = None,
    early: int | None = None,
    development: tuple[Tensor, Tensor] | None = None,
    estimators: Estimators | None = None,
    batch_size: int = 128,
    report: Report | None = None,
) -> GridResult:
    """Attack a model through every gradient and judge it under every defense.

    Args:
        deq: the model; it is evaluated in eval mode and left as it was.
        x: the images, pixels within the attack's bounds.
        y: their labels.
        protocol: `"paper"`.
        attack: what climbs the gradients; PGD-10 with ε = 8/255 and step 2/255 by default.
        early: the n of the early-state defense. None chooses, on `development`, the intermediate state that is most
            robust under the ready-made attack (paper, §5.2).
        development: images and labels apart from x, only needed when `early` is None.
        estimators: the settings of the estimated gradients.
        batch_size: how many images are attacked at once.
        report: called with the share of the work that is done, weighted by its cost, and what is under way.

    Returns:
        The outcome of every sample.

    Raises:
        InputError: x or y cannot be used, there is no such protocol or state, or nothing to choose `early` on.
    """
    make_columns = protocol_named(protocol)
    attack = PGD() if attack is None else attack
    estimators = Estimators() if estimators is None else estimators
    attack.threat.check(x, y)
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; attack at least 1 image at once.")
    if early is None and development is None:
        raise InputError("the early-state defense needs its state; give early=n, or a development set to choose it on.")
    report = report or (lambda share, what: None)
    with evaluating(deq):
        if early is None:
            assert development is not None
            report(0.0, "choosing the early state")
            early = choose_early_state(deq, *development, attack, estimators.final, batch_size)
        defenses: dict[str, Defense] = {"final": FinalState(), "early": EarlyState(early), "ensemble": EnsembleState()}
        for defense in defenses.values():
            defense.check(deq)
        columns = make_columns(deq.last_state, defenses, estimators)
        work = _Work(deq, columns, attack, report)
        rows = list(defenses.values())
        clean = _judge(deq, x, y, rows, batch_size)
        profiles = {"clean": state_profile(deq, x, y, batch_size)}
        chosen, outcomes = [], []
        for column in columns:
            best: tuple[Gradient, Tensor] | None = None
            for gradient in column.candidates:
                adversaries = work.adversaries(gradient, column.name, x, y, batch_size)
                standing = _judge(deq, adversaries, y, rows, batch_size)
                if best is None or standing[1].sum() < best[1][1].sum():
                    best = gradient, standing
                if gradient == estimators.final:
                    profiles["ready-made attack"] = state_profile(deq, adversaries, y, batch_size)
            assert best is not None
            chosen.append(best[0])
            outcomes.append(best[1])
    report(1.0, "done")
    return GridResult(
        defenses=tuple(f"early (z_{early})" if name == "early" else name for name in defenses),
        columns=tuple(column.name for column in columns),
        gradients=tuple(repr(gradient) for gradient in chosen),
        beyond_paper=tuple(column.family is Family.SOLVER for column in columns),
        clean=clean.cpu().numpy(),
        per_sample=torch.stack(outcomes, dim=1).cpu().numpy(),
        profiles=profiles,
        settings={
            "protocol": protocol,
            "attack": asdict(attack),
            "early": early,
            "solver": repr(deq.solver),
            "tail": repr(deq.tail),
            "estimators": repr(estimators),
            "batch_size": batch_size,
            "device": str(x.device),
            "torch": torch.__version__,
        },
    )


def choose_early_state(
    deq: DEQ,
    x: Float[Tensor, "samples *image"],
    y: Int[Tensor, "samples"],
    attack: PGD,
    gradient: Gradient,
    batch_size: int = 128,
) -> int:
    """The intermediate state that is most robust, on a development set, under the ready-made attack (paper, §5.2).

    Args:
        deq: the model.
        x: the images of the development set.
        y: their labels.
        attack: the ready-made attack.
        gradient: the gradient it climbs, of the final state.
        batch_size: how many images are attacked at once.
    """
    with evaluating(deq):
        adversaries = _Work(deq, [], attack, lambda share, what: None).adversaries(gradient, "", x, y, batch_size)
        return most_robust_state(state_profile(deq, adversaries, y, batch_size))


class _Work:
    """Makes adversaries batch by batch and reports how much of all that is to be made is done."""

    def __init__(self, deq: DEQ, columns: list[Column], attack: PGD, report: Report) -> None:
        self._deq, self._attack, self._report = deq, attack, report
        candidates = [gradient for column in columns for gradient in column.candidates]
        self._total = sum(gradient.evaluations(deq) for gradient in candidates) or 1
        self._done = 0.0

    def adversaries(
        self,
        gradient: Gradient,
        name: str,
        x: Float[Tensor, "samples *image"],
        y: Int[Tensor, "samples"],
        batch_size: int,
    ) -> Float[Tensor, "samples *image"]:
        surrogate = Surrogate(self._deq, gradient)
        parts = []
        for i, (images, labels) in enumerate(zip(x.split(batch_size), y.split(batch_size), strict=True)):
            self._report(self._done / self._total, name)
            parts.append(replace(self._attack, seed=self._attack.seed + i)(surrogate, images, labels))
            self._done += gradient.evaluations(self._deq) * len(images) / len(x)
        return torch.cat(parts)


def _judge(
    deq: DEQ, x: Float[Tensor, "samples *image"], y: Int[Tensor, "samples"], defenses: list[Defense], batch_size: int
) -> Bool[Tensor, "defenses samples"]:
    """Whether each defense classifies each image correctly; all defenses from one solve per batch."""
    batches = [
        torch.stack([correct(logits, labels) for logits in defended_logits(deq, images, defenses)])
        for images, labels in zip(x.split(batch_size), y.split(batch_size), strict=True)
    ]
    return torch.cat(batches, dim=1)
