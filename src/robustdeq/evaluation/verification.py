"""What an evaluation kept, verified: its adversaries are read from their files, measured and judged again.

How far they moved is computed in float64 by NumPy alone, so that a mistake in a norm or a projection of this package
cannot hide itself.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from robustdeq.base.errors import InputError, require
from robustdeq.base.progress import Report, silent
from robustdeq.base.provenance import tensor_fingerprint
from robustdeq.base.shapes import Labels, Pixels
from robustdeq.base.tensors import read_tensors
from robustdeq.deq import Defense, EntropyReduction
from robustdeq.deq.modes import evaluating
from robustdeq.evaluation.assemble import assemble
from robustdeq.evaluation.column import Role, Row
from robustdeq.evaluation.job import ADVERSARIES, CLEAN, adversaries_file, judge
from robustdeq.evaluation.protocol import Network
from robustdeq.evaluation.protocols import protocol_named
from robustdeq.evaluation.store import FILE, Outcome, Store
from robustdeq.zoo.card import fingerprint

_LENGTHS = {
    "Linf": lambda moved: np.abs(moved).max(axis=1),
    "L2": lambda moved: np.sqrt((moved**2).sum(axis=1)),
    "L1": lambda moved: np.abs(moved).sum(axis=1),
}


@dataclass(eq=False)
class Verification:
    """What was found.

    Attributes:
        rows: the titles of the table's rows.
        norm: of the threat model.
        eps: its radius.
        files: how many files of adversaries were read.
        furthest: the greatest distance of an adversary within the threat model from its image.
        verdicts: how many verdicts were made again, for each row.
        differing: how many of them are not those of the store.
        rounded: how many of them are others in float64; None where that was not asked.
        problems: what is wrong, a sentence each.
    """

    rows: tuple[str, ...]
    norm: str
    eps: float
    files: int
    furthest: float
    verdicts: Int[np.ndarray, "rows"]
    differing: Int[np.ndarray, "rows"]
    rounded: Int[np.ndarray, "rows"] | None
    problems: list[str] = field(default_factory=list)


def usual_defenses(settings: Mapping[str, Any], reduction: EntropyReduction) -> dict[str, Defense]:
    """The rows that a protocol gave an evaluation.

    Args:
        settings: of the evaluation.
        reduction: input entropy reduction, where that is one of them.

    Raises:
        InputError: the rows were not the protocol's, or entropy reduction had other settings.
    """
    foreign = "defenses" in settings and "rows" not in settings
    require(not foreign, "the rows were given in Python; give them to `verified` there.")
    name = settings["protocol"]
    own = {"defense": reduction} if "defense" in settings else {}
    protocol = Network() if name == Network.name else protocol_named(name, **own)
    same = protocol.settings().get("defense") == settings.get("defense")
    require(same, "the evaluation had other settings of --reduction; give the same.")
    usual = protocol.defenses(settings.get("early"))
    return {row: usual[row] for row in settings.get("rows", usual)}


def verified(
    folder: str | Path,
    model: nn.Module,
    x: Pixels,
    y: Labels,
    defenses: Mapping[str, Defense],
    double: bool = False,
    report: Report | None = None,
) -> Verification:
    """Read, measure and judge every adversary that an evaluation kept.

    Args:
        folder: of the evaluation.
        model: that was evaluated.
        x: the images that were attacked.
        y: their labels.
        defenses: the rows of its table, by id, in order.
        double: judge the same adversaries in float64 too.
        report: called with the share of the work that is done, and what is under way.

    Raises:
        InputError: the evaluation is not finished, kept no adversaries, or was of another model, other images or other
            rows, or its norm is none of Linf, L2 and L1.
    """
    folder = Path(folder)
    with Store.read(folder / FILE) as store:
        assemble(store)
        manifest, kept = store.manifest, folder / ADVERSARIES
        require(kept.is_dir(), f"there is no {kept}; evaluate with --save_adversaries, and it is made.")
        of = {"weights": ("model", fingerprint(model)), "data": ("set of images", tensor_fingerprint(x, y))}
        for name, (what, expected) in of.items():
            require(manifest[name] == expected, f"{folder} is about another {what}; give the one that was evaluated.")
        ids = [row["id"] for row in manifest["rows"]]
        require([*defenses] == ids, f"the rows of {folder} are {', '.join(ids)}; give these defenses.")
        attack = manifest["settings"]["attack"]
        require(attack["norm"] in _LENGTHS, f"distances in {attack['norm']} are not known here, only Linf, L2 and L1.")
        with evaluating(model):
            return _Again(store, kept, model, x, y, defenses, double).all(report or silent)


class _Again:
    """The evaluation of a store, done again from its adversaries, batch by batch."""

    def __init__(
        self,
        store: Store,
        kept: Path,
        model: nn.Module,
        x: Pixels,
        y: Labels,
        defenses: Mapping[str, Defense],
        double: bool,
    ) -> None:
        self._store, self._kept, self._x, self._y = store, kept, x, y
        manifest, attack = store.manifest, store.manifest["settings"]["attack"]
        self._model, self._exact = model, copy.deepcopy(model).double() if double else None
        self._rows = [Row(id, model, defense) for id, defense in defenses.items()]
        self._low, self._high = (float(end) for end in attack["bounds"])
        self._unit, self._greatest = torch.finfo(x.dtype).eps, float(x.abs().max())
        none = np.zeros(len(defenses), dtype=int)
        self.found = Verification(
            rows=tuple(row["title"] for row in manifest["rows"]),
            norm=attack["norm"],
            eps=float(attack["eps"]),
            files=0,
            furthest=0.0,
            verdicts=none.copy(),
            differing=none.copy(),
            rounded=none.copy() if double else None,
        )

    def all(self, report: Report) -> Verification:
        """Do all batches, and look for files that nothing is known of."""
        size, batches = self._store.manifest["settings"]["batch_size"], self._store.manifest["batches"]
        read: set[Path] = set()
        for number in range(batches):
            report(number / batches, f"batch {number + 1} of {batches}")
            read |= self._batch(number, slice(number * size, (number + 1) * size))
        for file in sorted({*self._kept.iterdir()} - read):
            self.found.problems.append(f"{file} belongs to no attack of the evaluation.")
        return self.found

    def _batch(self, number: int, chosen: slice) -> set[Path]:
        """Do one batch, attempt after attempt in their order; returns the files that it should have."""
        x, y, file = self._x[chosen], self._y[chosen], adversaries_file(self._kept, CLEAN, number)
        clean = self._store.get(CLEAN, number)
        assert clean is not None
        everything = np.ones_like(clean.outcome.standing)
        images = self._read(file, x, y, within=True)
        self._judge("the clean images", x, x if images is None else images, y, everything, clean.outcome)
        files, standing = {file}, clean.outcome.standing
        for column in self._store.manifest["columns"]:
            role = Role(column["role"])
            for attempt in column["attempts"]:
                run = self._store.get(attempt["key"], number)
                if run is None:
                    continue
                file = adversaries_file(self._kept, attempt["key"], number)
                files.add(file)
                adversaries = self._read(file, x, y, role.counts)
                if adversaries is not None:
                    before = standing if attempt["settings"]["survivors"] else everything
                    self._judge(f"{column['label']}, {file.name}", x, adversaries, y, before, run.outcome)
                if role.counts:
                    standing = standing & run.outcome.standing
        return files

    def _read(self, file: Path, x: Pixels, y: Labels, within: bool) -> Pixels | None:
        """The adversaries in a file, where they can be judged; what is wrong with them is noted."""
        found, say = self.found, self.found.problems.append
        try:
            tensors = read_tensors(file, ("adversaries", "labels"), "adversaries")
        except InputError as error:
            say(str(error))
            return None
        found.files += 1
        adversaries, labels = tensors["adversaries"], tensors["labels"]
        if adversaries.shape != x.shape or labels.tolist() != y.tolist():
            say(f"{file} holds other images or labels than were attacked.")
            return None
        pixels = _plain(adversaries)
        if not ((self._low <= pixels) & (pixels <= self._high)).all():
            say(f"{file} holds pixels outside [{self._low:g}, {self._high:g}], or that are no numbers.")
        lengths = _LENGTHS[found.norm](pixels - _plain(x))
        if within:
            found.furthest = float(np.maximum(found.furthest, lengths.max()))
            if beyond := int((~(lengths <= found.eps + self._rounding(pixels))).sum()):
                far = f"by up to {lengths.max():.9g} in {found.norm}"
                say(f"{file} moves {beyond} images further than ε = {found.eps:.9g}, {far}.")
        return adversaries.to(x)

    def _rounding(self, pixels: Float[np.ndarray, "batch pixels"]) -> float:
        """How far beyond ε adversaries may lie: 8 u (ε + ‖m‖), as `ThreatModel.check_adversaries` has it."""
        greatest = np.full_like(pixels[:1], max(self._greatest, np.abs(pixels).max()))
        return 8 * self._unit * (self.found.eps + float(_LENGTHS[self.found.norm](greatest)[0]))

    def _judge(
        self,
        what: str,
        x: Pixels,
        adversaries: Pixels,
        y: Labels,
        before: Bool[np.ndarray, "rows batch"],
        said: Outcome,
    ) -> None:
        """Judge the adversaries of those that still stood, and compare with what the store says of all."""
        found, attacked = self.found, before.any(axis=0)
        if not attacked.any():
            return
        chosen = torch.from_numpy(attacked).to(x.device)
        x, adversaries, y = x[chosen], adversaries[chosen], y[chosen]
        again = before.copy()
        again[:, attacked] &= (judged := judge(self._model, self._rows, x, adversaries, y).standing)
        differing = (again != said.standing).sum(axis=1)
        found.verdicts += len(x)
        found.differing += differing
        if differing.any():
            found.problems.append(f"{what}: {differing.sum()} verdicts of {judged.size} are not the store's.")
        if self._exact is not None and found.rounded is not None:
            exact = judge(self._exact, self._rows, x.double(), adversaries.double(), y).standing
            found.rounded += (judged != exact).sum(axis=1)


def _plain(images: Tensor) -> Float[np.ndarray, "batch pixels"]:
    """Images as rows of numbers in float64."""
    return images.detach().cpu().flatten(1).double().numpy()
