"""Each probe fails a model that is planted to deserve it, by the right name, and passes an honest one."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import robustdeq as rd
from robustdeq.attacks import PGD
from robustdeq.deq.defenses import AsIs
from robustdeq.evaluation import Check, CheckVerdict, Store, WorstCase, measure
from robustdeq.evaluation.column import Row
from robustdeq.evaluation.probes import PROBES, Company, Constant, Masking, Planted, Probe, SelfTest, Trace
from robustdeq.evaluation.store import FILE

ATTACK = PGD(eps=0.2, step_size=0.05, steps=8)
IMAGE = (1, 6, 6)


class Network(nn.Module):
    """Three classes of small images; smooth, and of each image alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(36, 24), nn.Tanh(), nn.Linear(24, 3)).double()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Centred(Network):
    """Its answer depends on the mean of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(0.5 + x - x.mean(dim=0))


class Noisy(Network):
    """Its answer depends on chance."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 0.1 * torch.randn_like(x))


class Rounded(Network):
    """It reads all pixels but one through eight levels of grey."""

    def forward(self, x: Tensor) -> Tensor:
        kept = torch.zeros_like(x)
        kept[..., 0, 0] = 1
        return super().forward(kept * x + (1 - kept) * torch.round(8 * x) / 8)


class Upside(Network):
    """Its gradient points the wrong way."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return 2 * logits.detach() - logits


class Blind(Network):
    """It does not see a part of the image at all, which is no fault."""

    def forward(self, x: Tensor) -> Tensor:
        seen = torch.ones_like(x)
        seen[..., :3, :] = 0
        return super().forward(seen * x)


def images(model: nn.Module, n: int = 12) -> tuple[Tensor, Tensor]:
    x = 0.2 + 0.6 * torch.rand(n, *IMAGE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        return x, model(x).argmax(dim=1)


def looked(kind: type[Probe], model: nn.Module, attack: PGD = ATTACK) -> Check:
    x, y = images(model)
    found = kind(attack).look(Row("network", model, AsIs()), x, y)
    assert all(values.shape == (12,) for values in found.values())
    return kind.check({"network": {name: values.numpy() for name, values in found.items()}})


@pytest.mark.parametrize("kind", PROBES.values(), ids=lambda kind: kind.name)
def test_an_honest_model_passes(kind: type[Probe]) -> None:
    check = looked(kind, Network())
    assert check.passed, check.sentence
    assert check.name == kind.name


@pytest.mark.parametrize(
    ("kind", "model", "sentence"),
    [
        (Company, Centred, "when (alone|beside hostile images), on 100% of 12 images"),
        (Company, Noisy, "of their spread when"),
        (Masking, Rounded, "On up to 100% of 12 images, pixels that have no gradient change the logits"),
        (Trace, Upside, r"PGD does not raise the loss on \d+% of 12 images, on network"),
    ],
)
def test_a_model_that_misleads_fails_by_name(kind: type[Probe], model: Callable[[], nn.Module], sentence: str) -> None:
    check = looked(kind, model())
    assert check.verdict is CheckVerdict.FAILED
    (numbers,) = check.numbers.values()
    assert all(0 <= value <= 1 for value in numbers.values())
    assert re.search(sentence, check.sentence), check.sentence


def test_pixels_that_play_no_part_are_not_masked() -> None:
    check = looked(Masking, Blind())
    assert check.passed
    assert check.numbers["network"]["pixels without gradient"] == pytest.approx(0.5)


def test_an_attack_that_is_stopped_early_is_told() -> None:
    check = looked(Trace, Network(), PGD(eps=0.2, step_size=0.001, steps=4, random_start=False))
    assert "take more" in check.sentence
    assert check.verdict is CheckVerdict.FAILED


def test_last_quarter_of_fewer_than_four_steps_has_none() -> None:
    check = looked(Trace, Network(), PGD(eps=0.2, step_size=0.001, steps=3, random_start=False))
    assert check.passed and "last quarter" not in check.sentence


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_what_is_planted_falls_to_a_fit_attack_and_not_to_one_that_stays_where_it_is(norm: str) -> None:
    eps = {"Linf": 0.1, "L2": 0.5}[norm]
    fit = PGD(eps, eps / 4, steps=10, norm=norm)
    assert looked(SelfTest, Network(), fit).passed
    idle = PGD(eps, eps / 1e4, steps=1, norm=norm, random_start=False)
    check = looked(SelfTest, Network(), idle)
    assert check.verdict is CheckVerdict.FAILED
    assert check.numbers["network"] == {"planted model falls": 0.0, "constant model falls": 0.0}


class Backwards(PGD):
    """It descends the loss."""

    def step(self, x: Tensor, gradient: Tensor, center: Tensor) -> Tensor:
        return super().step(x, -gradient, center)


class Clipped(PGD):
    """It projects onto the image instead of the ball."""

    def step(self, x: Tensor, gradient: Tensor, center: Tensor) -> Tensor:
        return center


@pytest.mark.parametrize("tampered", [Backwards, Clipped])
def test_tampered_attack_fails_the_self_test(tampered: type[PGD]) -> None:
    check = looked(SelfTest, Network(), tampered(eps=0.1, step_size=0.025, steps=10))
    assert check.verdict is CheckVerdict.FAILED
    assert check.numbers["network"] == {"planted model falls": 0.0, "constant model falls": 0.0}


def test_planted_and_constant_models_classify_their_images() -> None:
    x, _ = images(Network())
    for model in (Planted(x[:1], ATTACK), Constant()):
        assert model(x[:1]).argmax(dim=1).tolist() == [0]
    leaf = x[:1].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(Constant()(leaf).sum(), leaf)
    assert not gradient.any()
    assert Planted(x[:1], PGD(eps=0.0))(x[:1]).argmax(dim=1).tolist() == [1]


def test_a_lost_solve_counts_as_a_change_where_it_is_lost_only_once() -> None:
    class Flickering(Network):
        def forward(self, x: Tensor) -> Tensor:
            logits = super().forward(x).clone()
            logits[:1] = torch.nan
            return logits

    x, y = images(Network())
    found = Company(ATTACK).look(Row("network", Flickering(), AsIs()), x, y)
    assert found["asked again"].tolist() == [0] * 12
    assert found["alone"].tolist() == [0] + [1] * 11


def test_probes_are_made_on_the_first_batches_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deq = rd.models.mdeq("nano", in_channels=1).eval()
    x, y = rd.data.load("digits").require("test").head(6).tensors()
    few = {"steps": 1, "restarts": 1, "apgd_steps": 1, "targets": 1, "queries": 1, "probe_images": 4}
    protocol = WorstCase(
        PGD(eps=0.01, step_size=0.01, steps=1), rd.evaluation.Estimators(steps=(1,), dampings=(1.0,), states=1), **few
    )
    first = measure(deq, x, y, protocol, early=1, batch_size=2, folder=tmp_path)
    assert [check.name for check in first.checks[: len(PROBES)]] == [*PROBES]
    with Store.read(tmp_path / FILE) as store:
        assert set(store.notes) == {(name, batch) for name in PROBES for batch in (0, 1)}
    for kind in PROBES.values():
        monkeypatch.setattr(kind, "look", None)
    assert measure(deq, x, y, protocol, early=1, batch_size=2, folder=tmp_path).checks == first.checks
