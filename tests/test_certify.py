"""`robustdeq certify`: a certificate in a file, which an evaluation sets below its attacks."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

import robustdeq as rd
from robustdeq import cli
from robustdeq.certificates import Certified
from robustdeq.cli.certify import strictest
from robustdeq.evaluation import CheckVerdict, GridResult
from robustdeq.evaluation.store import digits
from robustdeq.zoo.factory import imported

EXAMPLE = Path(__file__).parents[1] / "examples" / "certified.py"
CERTIFY = ["certify", "model.safetensors", "--data", "digits", "-n", "6", "--output", "certified"]
QUICK = ["--estimators.steps", "[1]", "--estimators.dampings", "[1.0]", "--estimators.states", "1"]
EVALUATE = [
    "evaluate",
    "model.safetensors",
    "--data",
    "digits",
    "-n",
    "6",
    "--early",
    "3",
    "--output",
    "evaluated",
    *QUICK,
]
FILE = "certified/certified.json"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = rd.models.monotone("digits-dense", in_channels=1).eval()
    rd.save(model, "model.safetensors")
    with torch.no_grad():
        model.classifier.get_parameter("2.weight").mul_(0.9)
    rd.save(model, "other.safetensors")
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        cli.main([*arguments])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return " ".join(said.split())


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--certificate", "interval", "--interval.halvings", "2"],
        ["--certificate", "smoothing", "--smoothing.estimation", "20", "--eps", "[0.1, 1/4]"],
    ],
    ids=["lipschitz", "interval", "smoothing"],
)
def test_certificates_are_shown_and_kept(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    cli.main([*CERTIFY, *options])
    shown = capsys.readouterr().out
    found = Certified.read(Path(FILE))
    assert len(found.radius) == 6
    assert found.title in " ".join(shown.split())
    assert ("1/4" in shown) == ("--eps" in options)
    assert Path("certified/certified.png").stat().st_size > 1000


def test_evaluation_sets_certificates_below_its_attacks(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(CERTIFY)
    cli.main([*EVALUATE, "--attack.eps", "0.01", "--attack.norm", "L2", "--certified", FILE])
    assert "attacks and" in capsys.readouterr().out
    result = GridResult.read(Path("evaluated/results.json"))
    assert result.certified is not None
    assert (result.certified == Certified.read(Path(FILE)).holds(0.01, computed=True)).all()


def test_worst_cases_stand_above_what_is_certified(capsys: pytest.CaptureFixture[str]) -> None:
    worst = [
        *EVALUATE,
        "--protocol",
        "worst-case",
        *(f"--strict.{name}=2" for name in ("steps", "apgd_steps", "queries", "probe_images")),
        *(f"--strict.{name}=1" for name in ("restarts", "targets")),
    ]
    for eps in ("0.01", "1/20"):
        folder = f"at-{float(Fraction(eps))}"
        cli.main([*worst, "--attack.eps", eps, "--attack.norm", "L2", "--output", folder])
    capsys.readouterr()
    cli.main([*CERTIFY, "--attacked", "[at-0.01, at-0.05]"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "attacks leave" in shown
    assert "ε = 0.05" in shown
    other = [argument.replace("model.s", "other.s") for argument in CERTIFY]
    assert "is about another model" in refused(capsys, *other, "--overwrite", "--attacked", "[at-0.01]")
    fewer = [argument.replace("6", "5") for argument in CERTIFY]
    assert "another set of images" in refused(capsys, *fewer, "--overwrite", "--attacked", "[at-0.01]")
    vote = [*CERTIFY, "--overwrite", "--certificate", "smoothing", "--smoothing.estimation", "20"]
    assert "cover the vote" in refused(capsys, *vote, "--attacked", "[at-0.01]")


def test_an_image_that_fell_within_a_radius_stands_within_no_larger_one() -> None:
    left = [(0.2, "1101"), (0.1, "1011"), (0.2, "0111"), (0.3, "1111")]
    found = strictest((radius, np.array([*outcome]) == "1") for radius, outcome in left)
    assert {radius: digits(outcome) for radius, outcome in found.items()} == {0.1: "1011", 0.2: "0001", 0.3: "0001"}


def test_worst_cases_of_pixels_that_boxes_do_not_cover_stand_above_none(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main([*EVALUATE, "--attack.bounds", "[-1, 2]", "--attack.steps", "1"])
    boxes = ["--certificate", "interval", "--interval.halvings", "1", "--attacked", "[evaluated]"]
    assert "cover pixels in [0, 1] and the attacks use [-1, 2]" in refused(capsys, *CERTIFY, *boxes)


def test_certificates_of_something_else_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(CERTIFY)
    other = [argument.replace("model.s", "other.s") for argument in EVALUATE]
    assert "the certificates are of another model" in refused(capsys, *other, "--certified", FILE)
    fewer = [argument.replace("6", "5") for argument in EVALUATE]
    assert "the certificates are of 6 other images" in refused(capsys, *fewer, "--certified", FILE)
    assert "cannot be read" in refused(capsys, *EVALUATE, "--certified", "none.json")
    assert not Path("evaluated").exists()


def test_input_that_cannot_be_used_ends_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert "give a number, or a fraction such as 8/255" in refused(capsys, *CERTIFY, "--eps", "[tenth]")
    rd.save(rd.models.conv("digits", in_channels=1), "model.safetensors")
    assert "no modulus of monotonicity" in refused(capsys, *CERTIFY)
    assert not Path("certified").exists()


def test_earlier_certificates_are_not_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(CERTIFY)
    before = Path(FILE).read_bytes()
    assert "exists already" in refused(capsys, *CERTIFY)
    assert Path(FILE).read_bytes() == before
    cli.main([*CERTIFY, "--overwrite"])


def test_packaged_model_is_certified_as_documented() -> None:
    x, y = rd.data.load("digits").require("test").tensors()
    found = rd.certificates.Lipschitz().certify(rd.load("monotone-digits-dense"), x, y)
    shares = [found.accuracy(eps)[0] for eps in (0.0, 0.1, 0.25, 0.5)]
    assert shares == pytest.approx([0.9675, 0.9325, 0.8, 0.435], abs=0.01)
    assert (found.holds(0.25, computed=True) == found.holds(0.25)).mean() > 0.99


@pytest.mark.slow
def test_example_shows_both_sides() -> None:
    result = imported(f"{EXAMPLE}:bracket")(0.25, 4)
    assert result.certified is not None
    assert result.certified.mean() <= result.worst_case[0]
    assert result.checks[-1].verdict is not CheckVerdict.FAILED
