"""What a threat model and an attack refuse, in one sentence each."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustdeq.attacks import FGSM, PGD, ThreatModel
from robustdeq.base.errors import InputError

X = torch.full((3, 1, 2, 2), 0.5)
Y = torch.tensor([0, 1, 2])


def model() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval()


def with_pixel(value: float) -> Tensor:
    x = X.clone()
    x[1, 0, 0, 0] = value
    return x


@pytest.mark.parametrize("attack", [ThreatModel, PGD, FGSM])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eps": -0.1}, "eps is -0.1; give a radius of 0 or more"),
        ({"eps": float("nan")}, "eps is nan"),
        ({"eps": float("inf")}, "eps is inf; give a radius of 0 or more that is finite"),
        ({"norm": "L7"}, "norm is 'L7'; choose one of 'Linf', 'L2', 'L1'"),
        ({"norm": "linf"}, "norm is 'linf'"),
        ({"bounds": (1.0, 0.0)}, r"bounds are \(1.0, 0.0\)"),
        ({"bounds": (0.0, 0.0)}, r"bounds are \(0.0, 0.0\)"),
        ({"bounds": (float("inf"), 0.0)}, r"bounds are \(inf, 0.0\)"),
        ({"bounds": (float("nan"), 1.0)}, r"bounds are \(nan, 1.0\)"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_ball_that_does_not_exist_is_refused(attack: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        attack(**{"eps": 0.1} | settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps is 0; PGD makes at least 1"),
        ({"restarts": 0}, "restarts is 0; PGD runs at least once"),
        ({"step_size": 0.0}, "step_size is 0.0; give a positive number"),
        ({"step_size": -1.0}, "step_size is -1.0"),
        ({"step_size": float("nan")}, "step_size is nan"),
        ({"step_size": float("inf")}, "step_size is inf; give a positive number that is finite"),
    ],
    ids=str,
)
def test_attack_that_goes_nowhere_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PGD(**settings)


@pytest.mark.parametrize("step_size", [0.0, -0.1, float("nan"), float("inf")])
def test_fgsm_refuses_a_step_that_goes_nowhere(step_size: float) -> None:
    with pytest.raises(InputError, match=f"step_size is {step_size}"):
        FGSM(step_size=step_size)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (with_pixel(torch.nan), "pixels that are not finite"),
        (with_pixel(torch.inf), "pixels that are not finite"),
        (with_pixel(1.5), r"pixels from 0.5 to 1.5; scale them to \[0, 1\]"),
        (with_pixel(-0.25), "pixels from -0.25 to 0.5; scale them"),
        (with_pixel(1.0000001), r"x leaves \[0, 1\] by 1.2e-07, no more than rounding does; clamp it"),
        (with_pixel(-1e-8), r"x leaves \[0, 1\] by 1e-08, no more than rounding does; clamp it"),
    ],
    ids=["nan", "inf", "bright", "dark", "bright by rounding", "dark by rounding"],
)
def test_pixels_that_are_none_are_refused(x: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        PGD()(model(), x, Y)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (torch.tensor([0, 1, 3]), "y has labels from 0 to 3, and the model has classes 0 to 2"),
        (torch.tensor([0, -1, 2]), "y has labels from -1 to 2, and the model has classes 0 to 2"),
    ],
    ids=["too high", "negative"],
)
def test_labels_that_are_none_are_refused(y: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        PGD()(model(), X, y)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ((255 * X).byte(), Y, "x has dtype torch.uint8; convert it to floating-point pixels"),
        (X, Y.float(), "dtype torch.float32 for 3 images; give one integer label each"),
        (X, Y[:2], r"y has shape \(2,\) and dtype torch.int64 for 3 images; give one integer label each"),
        (X, Y[:, None], r"y has shape \(3, 1\)"),
        (X, nn.functional.one_hot(Y), r"y has shape \(3, 3\)"),
        (X[:0], Y[:0], "x holds no image"),
    ],
    ids=["bytes", "float labels", "too few", "column", "one-hot", "empty"],
)
def test_data_of_the_wrong_kind_is_refused(x: Tensor, y: Tensor, message: str, unchecked: None) -> None:
    with pytest.raises(InputError, match=message):
        PGD()(model(), x, y)


def test_labels_of_any_integer_type_mean_the_same() -> None:
    attack, network = PGD(eps=0.2, steps=2), model()
    assert torch.equal(attack(network, X, Y.int()), attack(network, X, Y))


@given(
    norm=st.sampled_from(["Linf", "L2", "L1"]),
    eps=st.floats(0, 5),
    bounds=st.sampled_from([(0.0, 1.0), (-2.1179, 2.64), (100.0, 355.0)]),
    dtype=st.sampled_from([torch.bfloat16, torch.float32, torch.float64]),
    seed=st.integers(0, 100),
)
@settings(max_examples=60, deadline=None)
def test_what_was_projected_is_accepted_whatever_the_precision(
    norm: str, eps: float, bounds: tuple[float, float], dtype: torch.dtype, seed: int
) -> None:
    low, high = bounds
    generator = torch.Generator().manual_seed(seed)
    threat = ThreatModel(min(eps, high - low), norm, bounds)
    x = threat.clip((low + (high - low) * torch.rand(4, 3, 8, 8, generator=generator)).to(dtype))
    far = x + 3 * (high - low) * torch.randn(x.shape, generator=generator).to(dtype)
    threat.check(x, torch.zeros(4, dtype=torch.int64))
    threat.check_adversaries(threat.project(far, x), x)
    threat.check_adversaries(x, x)


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_adversaries_that_break_the_threat_model_are_refused(norm: str, unchecked: None) -> None:
    threat, moved = ThreatModel(0.2, norm), X.clone()
    for value in (torch.nan, torch.inf):
        with pytest.raises(InputError, match="pixels that are not finite, which count for nothing"):
            threat.check_adversaries(with_pixel(value), X)
    with pytest.raises(InputError, match=r"pixels from 0.5 to 1.0001, outside \[0, 1\], which count for nothing"):
        threat.check_adversaries(with_pixel(1.0001), X)
    for other in (X[:1], X[0], X[..., :1]):
        with pytest.raises(InputError, match=r"from images of shape \(3, 1, 2, 2\); return one for each"):
            threat.check_adversaries(other, X)
    moved[1, 0, 1, 1] += 0.2
    threat.check_adversaries(moved, X)
    moved[1, 0, 1, 1] += 1e-4
    with pytest.raises(InputError, match=f"moved an image by 0.2001 in {norm}, further than eps = 0.2"):
        threat.check_adversaries(moved, X)


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_pixel_at_a_bound_keeps_its_derivative_under_any_torch(norm: str) -> None:
    x = torch.tensor([[0.0, 1.0, 0.5, 0.0]], requires_grad=True)
    projected = ThreatModel(0.1, norm).project(x, x)
    torch.testing.assert_close(torch.autograd.grad(projected.sum(), x)[0], torch.ones(1, 4), rtol=0, atol=0)
