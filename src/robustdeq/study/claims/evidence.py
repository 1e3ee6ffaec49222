"""What each seed says of the claims, image by image: kept, so that seeds can be measured one after another, anywhere.

`claims/seed-S-DIGEST.npz` in the folder of a study holds one array per statement, under its title, and the code that
measured it. The digest is that of the settings, so that evidence brought from elsewhere counts where they are the same.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from robustdeq.base.errors import InputError
from robustdeq.base.files import replace_with
from robustdeq.base.provenance import DISPLAY, code_fingerprint, digest
from robustdeq.base.statistics import holm, paired_effect
from robustdeq.study.claims.statement import Samples, Seed, Statement
from robustdeq.study.finding import Finding
from robustdeq.study.study import Study

_ABOUT = "about"


def decide(statements: Sequence[Statement], study: Study) -> Iterator[Finding]:
    """What became of the statements, over all seeds of a study; Holm's correction is over all of them.

    Args:
        statements: those that need more sizes than the scale has are left out.
        study: the study.
    """
    asked = [statement for statement in statements if statement.sizes <= len(study.scale.sizes)]
    by_seed = [contrasts(asked, study, seed) for seed in range(study.seeds)]
    pooled = [np.stack([found[statement.title] for found, _ in by_seed]) for statement in asked]
    effects = [paired_effect(contrast) for contrast in pooled]
    corrected = holm([effect.p for effect in effects])
    for statement, contrast, effect, p in zip(asked, pooled, effects, corrected, strict=True):
        seeds, images = contrast.shape
        yield Finding(
            statement.title,
            statement.sentence,
            statement.source,
            effect.mean,
            effect.low,
            effect.high,
            statement.unit,
            p,
            seeds,
            images,
            study.scale.name,
            tuple(experiment.name for experiment in statement.shown),
            tuple(code[statement.title] for _, code in by_seed),
        )


def contrasts(statements: Sequence[Statement], study: Study, seed: int) -> tuple[dict[str, Samples], dict[str, str]]:
    """The contrast of every statement for one seed, and the code that measured it; what is kept is not measured again.

    Args:
        statements: what is asked.
        study: where models and evidence are kept.
        seed: added to that of the recipes.

    Raises:
        InputError: a file of evidence is damaged.
    """
    deciding = study.settings | {"seeds": None, "batch_size": study.batch_size, "device": study.device.type}
    path = study.folder / "claims" / f"seed-{seed}-{digest(deciding)}.npz"
    kept, about = _read(path)
    found = Seed(replace(study, used=about["models"]), seed)
    for statement in statements:
        if statement.title not in kept:
            kept[statement.title] = np.asarray(statement.contrast(found), float)
            about["code"][statement.title] = code_fingerprint(unrelated=DISPLAY)
            _write(path, kept, about)
    study.used.update(about["models"])
    return kept, about["code"]


def _read(path: Path) -> tuple[dict[str, Samples], dict[str, dict[str, str]]]:
    """What is kept, and its models and code by name; nothing where there is no such file."""
    if not path.is_file():
        return {}, {"code": {}, "models": {}}
    try:
        with np.load(path, allow_pickle=False) as file:
            kept = {name: file[name] for name in file.files}
        return kept, json.loads(str(kept.pop(_ABOUT)))
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise InputError(f"{path} is damaged; delete it, and it is measured again.") from error


def _write(path: Path, kept: dict[str, Samples], about: dict[str, Any]) -> None:
    buffer, contents = io.BytesIO(), dict[str, Any](kept, **{_ABOUT: np.array(json.dumps(about))})
    np.savez_compressed(buffer, **contents)
    replace_with(path, lambda temporary: temporary.write_bytes(buffer.getvalue()))
