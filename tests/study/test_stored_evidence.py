"""What `results/` holds is still found: its names are made of descriptions and fingerprints that do not change."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import robustdeq as rd
from robustdeq.evaluation import Estimators, Paper, Strict
from robustdeq.study import Effort, Study, scale_named
from robustdeq.study.beyond.when import VARIATIONS, measured
from robustdeq.study.evidence import Evidence
from robustdeq.zoo.card import fingerprint

ROOT = Path(__file__).parents[2]
STORED = ROOT / "results/reproduction-conv-digits"


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Study]:
    """Studies of the stored kind, in which nothing is trained."""
    monkeypatch.setattr(Study, "planned", lambda *_: pytest.fail("a model is trained that was measured before"))
    splits = rd.data.load("digits")
    images = splits.require("test")

    def made(n: int, **settings: object) -> Study:
        return Study(scale_named("conv-digits"), splits, images.head(n), STORED, batch_size=200, **settings)

    return made


def test_evidence_of_claims_is_found(study: Callable[..., Study]) -> None:
    effort = Effort(long_steps=200, apgd_steps=30, targets=3, queries=1000)
    estimators, strict = Estimators(steps=(1, 9), states=8), Strict(estimators=Estimators(states=None))
    here = study(400, effort=effort, estimators=estimators, strict=strict)
    for seed in range(3):
        assert len(Evidence.of(here, "claims", f"seed-{seed}").arrays) > 10


def test_models_that_were_measured_need_no_training(study: Callable[..., Study]) -> None:
    here = study(200)
    protocol = Paper(here.attack, replace(here.estimators, steps=(1,), dampings=(1.0,)))
    for variation in VARIATIONS[:6]:
        outcomes, signs = measured(here, variation, protocol, "")
        assert (outcomes.shape, len(signs)) == ((4, 200), 3)


@pytest.mark.parametrize("weights", sorted((ROOT / "weights").glob("*.safetensors")), ids=lambda path: path.stem)
def test_shipped_weights_have_the_fingerprint_that_their_card_names(weights: Path) -> None:
    assert f"`{fingerprint(rd.load(weights))}`" in weights.with_suffix(".md").read_text(encoding="utf-8")
