"""Memory grows no faster than images and outcomes, and nobody who reads sees half of what is written."""

from pathlib import Path

import pytest
from load import apart, stored, written_beside

MEGABYTE = 1 << 20


@pytest.mark.parametrize(("readers", "runs"), [(2, 100), pytest.param(8, 1500, marks=pytest.mark.slow)])
def test_readers_see_whole_runs_while_more_are_written(readers: int, runs: int, tmp_path: Path) -> None:
    found = written_beside(readers, tmp_path, runs)
    assert found["commits"] == runs
    assert found["reads"] >= readers
    assert found["torn"] == 0


@pytest.mark.slow
def test_evaluation_needs_no_more_memory_than_its_images_and_outcomes(tmp_path: Path) -> None:
    few, many = (apart("evaluated", n, tmp_path / str(n)) for n in (500, 4000))
    images = many["images_bytes"] - few["images_bytes"]
    assert images > 40 * MEGABYTE
    assert many["peak_bytes"] - few["peak_bytes"] < 3 * images
    assert (tmp_path / "4000" / "results.sqlite").stat().st_size < 20 * MEGABYTE


@pytest.mark.slow
def test_export_needs_no_more_memory_for_more_outcomes(tmp_path: Path) -> None:
    outcomes = stored(tmp_path / "wide", 20_000, 50)
    assert outcomes == 3 * 50 * 20_000
    found = apart("exported", tmp_path / "wide", tmp_path / "wide.parquet")
    assert found["peak_bytes"] - found["peak_before_bytes"] < 300 * MEGABYTE
