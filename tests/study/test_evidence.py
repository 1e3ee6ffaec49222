"""Evidence is kept file by file; what was damaged, or is something else, is told in one sentence and not used."""

import io
import json
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest

from robustdeq.base.errors import InputError
from robustdeq.data import load
from robustdeq.study import Study, scale_named
from robustdeq.study.evidence import Evidence

FOUND = np.arange(6.0).reshape(2, 3)
ABOUT = {"code": {"readings": "0"}, "models": {"nano": "1"}}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    splits = load("digits")
    return Study(scale_named("nano"), splits, splits.require("test").head(3), tmp_path)


def kept(study: Study) -> Evidence:
    return Evidence.of_model(study, "kind", "nano", "2")


def write(study: Study, about: Any = ABOUT, **arrays: np.ndarray) -> None:
    path = kept(study).path
    path.parent.mkdir()
    np.savez(path, about=np.array(json.dumps(about)), **arrays)


def unmeasured() -> np.ndarray:
    raise AssertionError("it is measured again")


def test_what_is_kept_is_not_measured_again(study: Study) -> None:
    assert np.array_equal(kept(study).once("readings", (2, 3), lambda: FOUND), FOUND)
    assert np.array_equal(kept(study).once("readings", (2, None), unmeasured), FOUND)
    assert [*kept(study).code] == ["readings"]


def test_models_behind_evidence_are_noted(study: Study) -> None:
    write(study, readings=FOUND)
    assert kept(study).once("readings", (2, 3), unmeasured).shape == (2, 3)
    assert study.used == {"nano": "1"}


@pytest.mark.parametrize("shape", [(3, 2), (2,), (2, 3, 1), (None, 2)], ids=["turned", "flat", "deeper", "shorter"])
def test_another_shape_is_no_evidence(shape: tuple[int | None, ...], study: Study) -> None:
    write(study, readings=FOUND)
    with pytest.raises(InputError, match="is damaged; delete it"):
        kept(study).once("readings", shape, unmeasured)


@pytest.mark.parametrize(
    "about",
    [5, {}, {"code": {}, "models": {}}, {"code": {"readings": 1}, "models": {}}, {"code": [], "models": {}}],
    ids=["number", "nothing", "no code", "code as a number", "code as a list"],
)
def test_evidence_of_unknown_origin_is_damaged(about: object, study: Study) -> None:
    write(study, about, readings=FOUND)
    with pytest.raises(InputError, match="is damaged; delete it"):
        kept(study)


def test_evidence_is_made_of_numbers(study: Study) -> None:
    write(study, readings=np.array([["yes", "no"]]))
    with pytest.raises(InputError, match="is damaged; delete it"):
        kept(study)


def test_what_is_no_array_is_damaged(study: Study) -> None:
    write(study, readings=FOUND)
    with ZipFile(kept(study).path, "a") as file:
        file.writestr("notes.txt", "no array")
    with pytest.raises(InputError, match="is damaged; delete it"):
        kept(study)


def test_evidence_that_grows_beyond_measure_is_not_read(study: Study) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|b1", "fortran_order": False, "shape": (2**30,)})
    path = kept(study).path
    path.parent.mkdir()
    with ZipFile(path, "w", ZIP_DEFLATED) as file:
        file.writestr("readings.npy", header.getvalue() + bytes(2**28))
    with pytest.raises(InputError, match="is damaged; delete it"):
        kept(study)
