"""Evidence is kept file by file; what was damaged, or is something else, is told in one sentence and not used."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest
import torch

import robustdeq as rd
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


def test_evidence_of_given_weights_is_of_these_weights_alone(study: Study) -> None:
    file = study.folder / "own.safetensors"
    given, found = replace(study, weights={"unrolled": str(file)}), []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        rd.save(rd.models.mdeq("nano", in_channels=1), file, early=1)
        found.append(Evidence.of(given, "kind", "nano").once("readings", (2,), lambda seed=seed: np.array([seed, 7.0])))
    assert [readings[0] for readings in found] == [0, 1, 0]
    file.unlink()
    with pytest.raises(InputError, match="there are no weights at"):
        Evidence.of(given, "kind", "nano")


def test_evidence_of_trained_models_is_of_their_images_alone(study: Study) -> None:
    train = study.splits.require("train")
    other = replace(study, splits=replace(study.splits, train=replace(train, pixels=train.pixels.flip(0))))
    paths = [Evidence.of(here, "kind", "nano").path for here in (study, other, replace(study, seeds=5))]
    assert paths[0] == paths[2] != paths[1]
