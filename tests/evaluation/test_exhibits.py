"""Exhibits show what the model computes, and agreement is measured against the true gradient."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

import robustdeq as rd
from cells import images, make_deq
from robustdeq.attacks import PGD
from robustdeq.attacks.losses import cross_entropy
from robustdeq.base.errors import InputError
from robustdeq.deq.defenses import state_logits
from robustdeq.evaluation import Estimators
from robustdeq.evaluation.agreement import cosine, equal_signs, estimated_gradients, true_gradients
from robustdeq.evaluation.exhibits import FILE, Exhibits, exhibits
from robustdeq.gradients import Defended, Exact, SimultaneousAdjoint, UnrolledIntermediate

ESTIMATORS = Estimators(steps=(1, 3), dampings=(0.5,))
ATTACK = PGD(eps=0.2, step_size=0.1, steps=2)


def loss(logits: Tensor) -> Tensor:
    return F.cross_entropy(logits, torch.arange(len(logits)) % logits.shape[1], reduction="none")


@pytest.mark.usefixtures("float64")
def test_true_gradient_of_a_state_is_that_of_the_model_read_there() -> None:
    deq, x = make_deq("convolution"), images().requires_grad_()
    true = true_gradients(deq, x.detach(), loss)
    assert len(true) == deq.last_state
    for n, gradient in enumerate(true, 1):
        logits = Defended(deq, rd.defenses.EarlyState(n))(x)
        (expected,) = torch.autograd.grad(loss(logits).sum(), x)
        assert_close(gradient, expected)


@pytest.mark.usefixtures("float64")
def test_estimates_are_those_of_their_gradients() -> None:
    deq, x = make_deq("convolution"), images()
    found = estimated_gradients(deq, x, loss, ESTIMATORS)
    assert {tuple(gradient.shape) for gradient in found.values()} == {(deq.last_state, *x.shape)}
    for n in (1, deq.last_state):
        adjoint, unrolled = SimultaneousAdjoint(n), UnrolledIntermediate(n, steps=3, damping=0.5)
        assert_close(found["adjoint u_n"][n - 1], adjoint.input_gradient(deq, x, loss))
        assert_close(found["unrolled, k = 3, λ = 0.5"][n - 1], unrolled.input_gradient(deq, x, loss))
    assert_close(found["adjoint u_{n+1}"][0], SimultaneousAdjoint(2).input_gradient(deq, x, loss))
    assert_close(found["ready-made, exact"][2], ESTIMATORS.exact.input_gradient(deq, x, loss))
    assert isinstance(ESTIMATORS.exact, Exact)


def test_agreement_with_itself_its_opposite_and_nothing() -> None:
    a = torch.randn(3, 4, 5, 2)
    assert_close(cosine(a, 2 * a), torch.ones(3, 4))
    assert_close(cosine(a, -a), -torch.ones(3, 4))
    assert_close(cosine(a, 0 * a), torch.zeros(3, 4))
    assert_close(cosine(1e-12 * a, 1e-10 * a), torch.ones(3, 4))
    assert_close(equal_signs(a, 2 * a), torch.full((3, 4), 100.0))
    assert_close(equal_signs(a, -a), torch.zeros(3, 4))
    half = a.clone()
    half[..., 0] *= -1
    assert_close(equal_signs(a, half), torch.full((3, 4), 50.0))


def made() -> tuple[rd.DEQ, Tensor, Tensor, Exhibits]:
    deq = rd.models.mdeq(replace(rd.models.PRESETS["nano"], max_steps=3), in_channels=1).eval()
    x, y = torch.rand(3, 1, 8, 8), torch.tensor([0, 5, 9])
    return deq, x, y, exhibits(deq, x, y, tuple("abcdefghij"), ATTACK, ESTIMATORS)


def test_exhibits_show_the_images_and_what_every_state_makes_of_them() -> None:
    deq, x, y, found = made()
    assert_close(found.images, x, rtol=0, atol=0)
    change = (found.adversaries - x).abs()
    assert 0 < change.max() <= ATTACK.eps + 1e-6
    assert found.adversaries.min() >= 0
    assert found.adversaries.max() <= 1
    assert found.clean.shape == found.attacked.shape == (3, 4, 10)
    for shown, given in ((found.clean, x), (found.attacked, found.adversaries)):
        assert_close(shown.sum(dim=2), torch.ones(3, 4))
        assert_close(shown[:, -1], deq(given).softmax(dim=1))
    right = found.attacked[torch.arange(3), -1, y] - found.clean[torch.arange(3), -1, y]
    assert right.mean() < 0
    assert found.cosines.shape == (len(found.estimates), 4, 3)
    assert found.cosines.abs().max() <= 1 + 1e-5
    assert not deq.training
    assert (found.attack["class"], found.attack["eps"], found.attack["norm"]) == ("PGD", 0.2, "Linf")


@pytest.mark.usefixtures("float64")
def test_exhibits_name_the_logits_that_no_image_is_of(tmp_path: Path) -> None:
    deq, x, y, _ = made()
    exhibits(deq, x, y.clamp_max(1), ("cat", "dog"), ATTACK, ESTIMATORS).save(tmp_path / FILE)
    assert Exhibits.read(tmp_path / FILE).classes == ("cat", "dog", *"23456789")


def test_residuals_and_directions_are_those_of_every_state() -> None:
    deq, x, y, found = made()
    for residuals, given in zip(found.residuals, (x, found.adversaries), strict=True):
        assert_close(residuals.T, state_logits(deq, given)[1])
    true = true_gradients(deq, x, partial(cross_entropy, y=y))
    assert torch.equal(found.directions, true.sign().to(torch.int8))


def test_exhibits_are_read_as_they_were_written(tmp_path: Path) -> None:
    *_, found = made()
    found.save(tmp_path / "e.safetensors")
    read = Exhibits.read(tmp_path / "e.safetensors")
    for name in ("images", "adversaries", "labels", "clean", "attacked", "residuals", "directions", "cosines"):
        assert_close(getattr(read, name), getattr(found, name), rtol=0, atol=0)
    assert (read.classes, read.estimates, read.attack) == (found.classes, found.estimates, found.attack)


@pytest.mark.parametrize("content", [b"", b"nothing of the kind", b"\x08\0\0\0\0\0\0\0{}      "])
def test_file_that_holds_something_else_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "e.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"e\.safetensors holds no exhibits"):
        Exhibits.read(tmp_path / "e.safetensors")
    with pytest.raises(InputError, match="holds no exhibits"):
        Exhibits.read(tmp_path / "missing.safetensors")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "change",
    [
        lambda e: {"adversaries": e.adversaries[:1]},
        lambda e: {"labels": e.labels + len(e.classes)},
        lambda e: {"labels": e.labels - 9},
        lambda e: {"labels": e.labels.float()},
        lambda e: {"clean": e.clean[..., :1]},
        lambda e: {"attacked": e.attacked[:, :1]},
        lambda e: {"residuals": e.residuals[0]},
        lambda e: {"directions": e.directions[:1]},
        lambda e: {"cosines": e.cosines[:1]},
        lambda e: {"classes": e.classes[:1]},
        lambda e: {"classes": (1,) * len(e.classes)},
        lambda e: {"estimates": ()},
        lambda e: {"attack": [1]},
        lambda e: {
            "images": e.images[:, :0],
            "adversaries": e.adversaries[:, :0],
            "directions": e.directions[:, :, :0],
        },
    ],
    ids=[
        *(
            "adversaries",
            "label too large",
            "label too small",
            "label with a fraction",
            "clean",
            "attacked",
            "residuals",
        ),
        *("directions", "cosines", "classes", "classes as numbers", "no estimates", "attack", "no channels"),
    ],
)
def test_what_does_not_belong_together_is_refused(change: Callable[[Exhibits], dict[str, Any]], tmp_path: Path) -> None:
    *_, shown = made()
    replace(shown, **change(shown)).save(tmp_path / "e")
    with pytest.raises(InputError, match="holds no exhibits; evaluate the model again"):
        Exhibits.read(tmp_path / "e")
