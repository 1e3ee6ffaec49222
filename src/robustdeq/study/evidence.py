"""What was measured, kept piece by piece, so that a study can be made one model after another, anywhere.

`KIND/NAME-DIGEST.npz` in the folder of a study holds arrays by title, the fingerprints of the models behind them, and
the code that measured them. The digest is that of the settings, of the weights that were given and of the images that
models are trained on, so that evidence brought from elsewhere counts where they are the same.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np

from robustdeq.base.errors import InputError
from robustdeq.base.files import file_digest, replace_with
from robustdeq.base.plain import fits, from_json
from robustdeq.base.provenance import DISPLAY, code_fingerprint, digest
from robustdeq.study.study import Study
from robustdeq.zoo.registry import locate

_ABOUT = "about"
_MOST_BYTES = 2**28


@dataclass(frozen=True, eq=False)
class Evidence:
    """The arrays in one file.

    Args:
        path: the file.
        study: where what is missing is to be measured, so that its models are noted beside the arrays.
        arrays: what is kept, by title.
        code: what measured each of them.
    """

    path: Path
    study: Study
    arrays: dict[str, np.ndarray]
    code: dict[str, str]

    @classmethod
    def of(cls, study: Study, kind: str, name: str, **decisive: Any) -> Evidence:
        """What is kept of one subject; nothing where it was never looked at.

        Args:
            study: where it is measured and kept.
            kind: of evidence, which names its folder.
            name: what the file is called by.
            decisive: settings that differ from those of the study, or are not among them, as plain values.

        Raises:
            InputError: the file is damaged, or there are no weights where they were given.
        """
        return cls._in(_path(study, kind, name, _made_from(study) | decisive), study)

    @classmethod
    def of_model(cls, study: Study, kind: str, name: str, fingerprint: str) -> Evidence:
        """What is kept of one model, whatever study it was measured in; raises `InputError` as `of`."""
        decisive = {"ways": None, "weights": None, "model": fingerprint}
        return cls._in(_path(study, kind, f"{name}-{fingerprint[:12]}", decisive), study)

    @classmethod
    def _in(cls, path: Path, study: Study) -> Evidence:
        arrays, about = _read(path)
        study.used.update(about["models"])
        return cls(path, replace(study, used=about["models"]), arrays, about["code"])

    def once(self, title: str, shape: tuple[int | None, ...], measure: Callable[[], np.ndarray]) -> np.ndarray:
        """What is found, from the file if it was measured before.

        Args:
            title: under which it is kept.
            shape: of what is found; None for any length.
            measure: finds it.

        Raises:
            InputError: what is kept has another shape.
        """
        if title not in self.arrays:
            self.arrays[title] = measure()
            self.code[title] = code_fingerprint(unrelated=DISPLAY)
            self._write()
        kept = self.arrays[title]
        if kept.ndim != len(shape) or any(n not in (None, here) for n, here in zip(shape, kept.shape, strict=True)):
            raise _damaged(self.path)
        return kept

    def _write(self) -> None:
        about = np.array(json.dumps({"code": self.code, "models": self.study.used}))
        buffer, contents = io.BytesIO(), dict[str, Any](self.arrays, **{_ABOUT: about})
        np.savez_compressed(buffer, **contents)
        replace_with(self.path, lambda temporary: temporary.write_bytes(buffer.getvalue()))


def _made_from(study: Study) -> dict[str, Any]:
    """What is in the weights that were given and in the images that models are trained on, not only their names."""
    parts = (study.splits.train, study.splits.development)
    return {
        "weights": {way: [*map(file_digest, locate(weights))] for way, weights in study.weights.items()},
        "trained_on": [None if part is None else part.fingerprint() for part in parts],
    }


def _path(study: Study, kind: str, name: str, decisive: dict[str, Any]) -> Path:
    settings = study.settings | {"seeds": None, "batch_size": study.batch_size, "device": study.device.type}
    return study.folder / kind / f"{name}-{digest(settings | decisive)}.npz"


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, dict[str, str]]]:
    if not path.is_file():
        return {}, {"code": {}, "models": {}}
    try:
        with ZipFile(path) as file:
            sizes = [member.file_size for member in file.infolist()]
        with np.load(path, allow_pickle=False) as file:
            kept = {name: file[name] for name in file.files} if sum(sizes) <= _MOST_BYTES else {}
        about = from_json(str(kept.pop(_ABOUT)))
        sound = fits(about, dict[str, dict[str, str]]) and {"code", "models"} <= about.keys()
        sound = sound and kept.keys() <= about["code"].keys()
        sound = sound and all(array.dtype.kind in "biuf" for array in kept.values())
    except Exception as error:
        raise _damaged(path) from error
    if not sound:
        raise _damaged(path)
    return kept, about


def _damaged(path: Path) -> InputError:
    return InputError(f"{path} is damaged; delete it, and it is measured again.")
