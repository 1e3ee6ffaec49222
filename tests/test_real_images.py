"""The whole way on real photographs: CIFAR-10 images, a small MDEQ, every attack, every defense."""

import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import robustdeq as rd
from robustdeq.attacks import PGD
from robustdeq.data.sources import FIRST
from robustdeq.evaluation import Estimators, GridResult, white_box_grid
from robustdeq.gradients import SimultaneousAdjoint, Surrogate, ThroughSolver

pytestmark = pytest.mark.xdist_group("real")
ROOT = Path(__file__).parents[1]
PARQUET = ROOT.parent / "shared" / "data" / "cifar10" / "test-exact.parquet"
EPS = 8 / 255
ATTACK = PGD(EPS, step_size=6 / 255, steps=2)


def bundled() -> tuple[Tensor, Tensor]:
    """The first 20 test images of CIFAR-10, which come with foolbox; the label ends the name of the file."""
    paths = sorted(Path(str(files("foolbox") / "data")).glob("cifar10_*.png"))
    pixels = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255, torch.tensor([int(p.stem[-1]) for p in paths])


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    x, y = bundled()
    return x[:8], y[:8]


@pytest.fixture(scope="module")
def deq() -> rd.DEQ:
    torch.manual_seed(0)
    return rd.models.mdeq(replace(rd.models.PRESETS["tiny"], channels=(16, 16), expansion=2, max_steps=4)).eval()


@pytest.fixture(scope="module")
def result(deq: rd.DEQ, data: tuple[Tensor, Tensor]) -> GridResult:
    estimators = Estimators(steps=(1,), dampings=(1.0,))
    return white_box_grid(deq, *data, attack=ATTACK, early=2, estimators=estimators)


def test_the_documentation_names_the_images_that_are_checked() -> None:
    count, fingerprint = FIRST
    said = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    assert f"head({count}).fingerprint()" in said
    assert fingerprint in said


@pytest.mark.skipif(not PARQUET.is_file(), reason="the CIFAR-10 images are not there")
def test_exact_images_stand_where_foolbox_numbers_them() -> None:
    x, y = rd.data.load(PARQUET).require("test").tensors()
    numbered, labels = bundled()
    assert len(labels) == 20
    assert torch.equal(x[:20], numbered)
    assert torch.equal(y[:20], labels)


@pytest.mark.skipif(not PARQUET.is_file(), reason="the CIFAR-10 images are not there")
@pytest.mark.parametrize(
    ("result", "images"),
    [
        ("small-cifar10-fast-strict/results.json", 64),
        ("small-cifar10-aligned-paper/results.json", 100),
        ("small-cifar10-aligned-worst-case/results.json", 500),
        ("reproduction-conv-small/overestimate.json", 400),
        ("reproduction-conv-small-exact-18-20/overestimate.json", 400),
        ("reproduction-conv-small-500/overestimate.json", 500),
    ],
)
def test_results_are_of_the_first_of_these_images(result: str, images: int) -> None:
    stored = json.loads((ROOT / "results" / result).read_text(encoding="utf-8"))
    known = stored["settings"] if "settings" in stored else stored["provenance"]
    assert known["fingerprint"] == rd.data.load(PARQUET).require("test").head(images).fingerprint()


def test_images_are_photographs(data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    assert x.shape == (8, 3, 32, 32)
    assert 0 <= x.min() < 0.1 < 0.9 < x.max() <= 1
    assert y.unique().numel() > 3
    neighbours = (x[..., 1:] - x[..., :-1]).abs().mean()
    assert neighbours < 0.5 * (x - x.flatten(2).mean(dim=2)[..., None, None]).abs().mean()


def test_table_has_every_row_and_column_and_only_shares(result: GridResult) -> None:
    frame = result.to_frame()
    assert list(frame.index) == ["final", "early (z_2)", "ensemble"]
    assert list(frame.columns) == [
        "clean",
        *(f"simultaneous adjoint, {reads}" for reads in ("final", "intermediate", "ensemble")),
        *(f"unrolled intermediates, {reads}" for reads in ("final", "intermediate", "ensemble")),
        *(f"through the solver, {reads}" for reads in ("final", "early", "ensemble")),
        "minimum (paper)",
        "worst case",
        "worst case, low",
        "worst case, high",
    ]
    assert frame.to_numpy().min() >= 0
    assert frame.to_numpy().max() <= 1


def test_trajectory_is_finite_on_images_and_adversaries(result: GridResult) -> None:
    for profile in result.profiles.values():
        assert len(profile.residual) == len(profile.accuracy) == 5
        assert np.isfinite(profile.residual).all()


@pytest.mark.parametrize("gradient", [SimultaneousAdjoint(), ThroughSolver()], ids=repr)
def test_adversaries_are_finite_and_fill_the_ball(
    gradient: rd.gradients.Gradient, deq: rd.DEQ, data: tuple[Tensor, Tensor]
) -> None:
    x, y = data
    adversaries = ATTACK(Surrogate(deq, gradient).eval(), x, y)
    assert adversaries.isfinite().all()
    assert 0 <= adversaries.min() < adversaries.max() <= 1
    moved = (adversaries - x).abs().flatten(1).amax(dim=1)
    assert (moved <= EPS + 1e-6).all()
    assert (moved > 0.9 * EPS).all()


@pytest.mark.slow
@pytest.mark.skipif(not PARQUET.is_file(), reason="the exact test images of CIFAR-10 are not here.")
def test_packaged_monotone_model_is_certified_as_documented() -> None:
    x, y = rd.data.load(PARQUET).require("test").head(100).tensors()
    found = rd.certificates.Lipschitz().certify(rd.load("monotone-small"), x, y)
    assert [found.accuracy(eps)[0] for eps in (0.0, 36 / 255, 0.25)] == pytest.approx([0.57, 0.48, 0.44], abs=0.02)
    assert found.accuracy(0.25, computed=True)[0] > 0.3
