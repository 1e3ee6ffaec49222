"""PGD climbs a loss inside a ball; it is the same attack as foolbox's."""

from collections.abc import Callable
from typing import Any

import foolbox
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

import robustdeq as rd
from robustdeq.attacks import (
    APGD,
    FGSM,
    PGD,
    Attack,
    AutoAttack,
    ByDistance,
    Cascade,
    ContinuedPGD,
    Cost,
    JointAttack,
    Linf,
    MomentumPGD,
    MultiTargeted,
    Square,
    StoppingPGD,
)
from robustdeq.attacks.ascent import generators
from robustdeq.attacks.losses import correct, margin
from robustdeq.attacks.pgd import input_gradient
from robustdeq.base.errors import InputError
from robustdeq.gradients import Gradient, Phantom, Surrogate, ThroughSolver

IMAGE = (1, 4, 5)
CLASSES = 4
NORMS = ["Linf", "L2", "L1"]
ORDERS = {"Linf": torch.inf, "L2": 2, "L1": 1}
norms = pytest.mark.parametrize("norm", NORMS)


def linear(dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(20, CLASSES)).to(dtype).eval()


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layers = (nn.Flatten(), nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, CLASSES))
    model = nn.Sequential(*layers).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


def pixels(n: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, *IMAGE, generator=generator, dtype=dtype)
    return x, torch.randint(CLASSES, (n,), generator=generator)


def lengths(x: Tensor, norm: str) -> Tensor:
    return torch.linalg.vector_norm(x.flatten(1), ord=ORDERS[norm], dim=1)


class Scaled(nn.Module):
    """A model whose logits, and so whose gradients, are multiplied per sample."""

    def __init__(self, model: nn.Module, factors: Tensor) -> None:
        super().__init__()
        self.model, self.factors = model, factors

    def forward(self, x: Tensor) -> Tensor:
        logits = self.model(x)
        return logits.detach() + self.factors[:, None] * (logits - logits.detach())


@pytest.mark.parametrize(
    ("gradient", "dtype", "atol"),
    [(Phantom(), torch.float32, 1e-5), (ThroughSolver(), torch.float64, 1e-8)],
    ids=["phantom", "through the solver"],
)
@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.1), ("L2", 0.7)])
@pytest.mark.parametrize("targeted", [False, True])
def test_adversaries_are_those_of_foolbox(
    gradient: Gradient, dtype: torch.dtype, atol: float, norm: str, eps: float, targeted: bool
) -> None:
    deq = rd.models.mdeq("nano", in_channels=1).to(dtype).eval()
    x, y = torch.rand(4, 1, 8, 8, dtype=dtype), torch.arange(4)
    surrogate = Surrogate(deq, gradient).eval()
    settings: dict[str, Any] = {"steps": 4, "random_start": False}
    ours = PGD(eps=eps, step_size=eps / 3, norm=norm, targeted=targeted, **settings)(surrogate, x, y)
    peer = {"Linf": foolbox.attacks.LinfPGD, "L2": foolbox.attacks.L2PGD}[norm](abs_stepsize=eps / 3, **settings)
    criterion = (foolbox.criteria.TargetedMisclassification if targeted else foolbox.criteria.Misclassification)(y)
    theirs, _, _ = peer(foolbox.PyTorchModel(surrogate, bounds=(0, 1)), x, criterion, epsilons=eps)
    assert (ours - x).abs().amax() > eps / 50
    assert_close(ours, theirs, rtol=0, atol=atol)


@given(
    eps=st.floats(0, 2),
    step=st.floats(1e-3, 3),
    norm=st.sampled_from(NORMS),
    shape=st.sampled_from([(1, 4, 5), (20,), (2, 10), (5, 2, 2)]),
    random_start=st.booleans(),
    bounds=st.sampled_from([(0.0, 1.0), (-0.5, 1.5), (-2.0, 3.0)]),
    seed=st.integers(0, 100),
)
@settings(max_examples=60, deadline=None)
def test_adversaries_stay_in_the_ball_and_in_the_bounds(
    eps: float,
    step: float,
    norm: str,
    shape: tuple[int, ...],
    random_start: bool,
    bounds: tuple[float, float],
    seed: int,
) -> None:
    x, y = pixels(3, seed)
    eps = min(eps, bounds[1] - bounds[0])
    attack = PGD(eps, step, steps=3, norm=norm, random_start=random_start, bounds=bounds, seed=seed)
    adversaries = attack(linear(), x.view(3, *shape), y).view_as(x)
    assert (lengths(adversaries - x, norm) <= eps + 1e-12).all()
    assert adversaries.min() >= bounds[0]
    assert adversaries.max() <= bounds[1]


@norms
def test_random_start_is_uniform_in_the_ball(norm: str) -> None:
    x = torch.full((4000, 3), 0.5, dtype=torch.float64)
    start = PGD(eps=0.3, norm=norm).start(x, torch.Generator().manual_seed(0)) - x
    share = (lengths(start, norm) / 0.3) ** 3
    assert share.max() <= 1
    expected = torch.linspace(0, 1, len(share), dtype=torch.float64)
    assert (share.sort().values - expected).abs().max() < 1.63 / len(share) ** 0.5
    assert start.mean(dim=0).abs().max() < 4 * 0.3 / len(share) ** 0.5


@norms
def test_seed_decides_the_random_start(norm: str) -> None:
    x, y = pixels(3)
    first, again, other = (PGD(eps=0.2, norm=norm, seed=seed, steps=2)(network(), x, y) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_random_start_leaves_the_global_generator_alone() -> None:
    (x, y), model = pixels(3), linear()
    before = torch.get_rng_state()
    PGD(steps=1)(model, x, y)
    assert torch.equal(torch.get_rng_state(), before)


class Recording(nn.Module):
    """A judge that remembers what it was shown."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.shown: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.shown.append(len(x))
        return self.model(x)


@norms
def test_restarts_keep_whom_they_fooled_and_never_fool_fewer(norm: str) -> None:
    surrogate, target = network(0), network(1)
    x, _ = pixels(300)
    y = target(x).argmax(dim=1)
    eps = {"Linf": 0.5, "L2": 1.7, "L1": 5.0}[norm]
    runs = [
        PGD(eps, eps / 2, steps=1, norm=norm, restarts=restarts)(surrogate, x, y, target) for restarts in range(1, 6)
    ]
    fooled = [~correct(target(run), y) for run in runs]
    assert 0 < fooled[0].sum() < fooled[-1].sum()
    for i in range(len(runs) - 1):
        assert torch.equal(runs[i + 1][fooled[i]], runs[i][fooled[i]])


def test_restarts_are_judged_on_the_target_and_only_while_it_stands() -> None:
    surrogate, target = network(0), Recording(network(1)).eval()
    x, _ = pixels(40)
    y = target.model(x).argmax(dim=1)
    PGD(0.5, 0.25, steps=1, restarts=4)(surrogate, x, y, target)
    assert target.shown == sorted(target.shown, reverse=True)
    assert len(target.shown) == 3
    assert target.shown[0] == 40 > target.shown[-1]


@pytest.mark.parametrize("attack", [PGD, StoppingPGD])
def test_runs_are_reported(attack: type[PGD]) -> None:
    (x, _), model = pixels(3), linear()
    reports: list[tuple[float, str]] = []
    weak = attack(1e-3, 1e-3, steps=1, restarts=2)
    weak(model, x, model(x).argmax(1), report=lambda share, what: reports.append((share, what)))
    assert reports == [(0, "run 1 of 2"), (0.5, "run 2 of 2")]


def test_one_run_asks_no_judge() -> None:
    x, y = pixels(3)
    target = Recording(network(1)).eval()
    PGD(steps=1)(network(0), x, y, target)
    assert target.shown == []


@norms
def test_loss_of_every_sample_rises_and_targeted_falls(norm: str) -> None:
    model = network()
    x, y = pixels(20)

    def losses(targeted: bool) -> Tensor:
        attack = PGD(0.3, 0.05, steps=10, norm=norm, random_start=False, targeted=targeted)
        return cross_entropy(model(attack(model, x, y)), y, reduction="none")

    clean = cross_entropy(model(x), y, reduction="none")
    assert (losses(targeted=False) > clean).all()
    assert (losses(targeted=True) < clean).all()


def opposite(logits: Tensor, y: Tensor) -> Tensor:
    return -cross_entropy(logits, y, reduction="none")


@norms
@pytest.mark.parametrize("corner", [0.0, 1.0])
def test_targeted_descends_as_far_as_the_opposite_loss_is_ascended(norm: str, corner: float) -> None:
    x, y = torch.full((CLASSES, *IMAGE), corner, dtype=torch.float64), torch.arange(CLASSES)
    settings = {"eps": 0.4, "step_size": 0.1, "norm": norm, "random_start": False}
    descended = PGD(**settings, targeted=True)(linear(), x, y)
    assert (descended != x).flatten(1).any(dim=1).all()
    assert torch.equal(descended, PGD(**settings, criterion=opposite)(linear(), x, y))


def test_targeted_restarts_stop_at_the_class_to_be_reached() -> None:
    model = network()
    x, _ = pixels(40)
    y = (model(x).argmax(dim=1) + 1) % CLASSES
    runs = [PGD(0.3, 0.15, steps=1, restarts=restarts, targeted=True)(model, x, y) for restarts in (1, 4)]
    reached = [correct(model(run), y) for run in runs]
    assert torch.equal(runs[1][reached[0]], runs[0][reached[0]])
    assert 0 < reached[0].sum() < reached[1].sum()


@norms
@pytest.mark.parametrize("step_size", [None, 0.03])
@pytest.mark.parametrize("random_start", [False, True])
def test_fgsm_is_one_step(norm: str, step_size: float | None, random_start: bool) -> None:
    x, y = pixels(5)
    fast = FGSM(eps=0.1, step_size=step_size, norm=norm, random_start=random_start, seed=3)(network(), x, y)
    one = PGD(0.1, step_size or 0.1, steps=1, norm=norm, random_start=random_start, seed=3)(network(), x, y)
    assert torch.equal(fast, one)
    assert not torch.equal(fast, x)


@norms
@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_radius_of_zero_returns_the_image(norm: str, random_start: bool, dtype: torch.dtype) -> None:
    x, y = pixels(5, dtype=dtype)
    for attack in (PGD(eps=0, norm=norm, random_start=random_start), FGSM(eps=0, norm=norm, random_start=random_start)):
        assert torch.equal(attack(linear(dtype), x, y), x)


@norms
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_sample_without_a_finite_gradient_stays_where_it_is(norm: str, value: float) -> None:
    x, y = pixels(4)
    factors = torch.tensor([1, value, 1, 1], dtype=torch.float64)
    attack = PGD(0.2, 0.1, steps=2, norm=norm, random_start=False)
    adversaries = attack(Scaled(linear(), factors).eval(), x, y)
    assert torch.equal(adversaries[1], x[1])
    expected = attack(linear(), x, y)
    for i in (0, 2, 3):
        assert_close(adversaries[i], expected[i])


@given(st.floats(-30, 30), st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=40, deadline=None)
def test_l2_step_has_its_length_whatever_the_size_of_the_gradient(exponent: float, dtype: torch.dtype) -> None:
    x, y = torch.full((2, *IMAGE), 0.5, dtype=dtype), torch.tensor([0, 1])
    model = Scaled(linear(dtype), torch.tensor([1, 10**exponent], dtype=dtype)).eval()
    attack = PGD(eps=0.3, step_size=0.1, steps=1, norm="L2", random_start=False)
    assert_close(lengths(attack(model, x, y) - x, "L2"), torch.full((2,), 0.1, dtype=dtype), rtol=1e-4, atol=1e-6)


@norms
def test_zero_gradient_moves_nothing(norm: str) -> None:
    x, y = pixels(2)
    adversaries = PGD(0.2, norm=norm, random_start=False)(Scaled(linear(), torch.zeros(2).double()).eval(), x, y)
    assert torch.equal(adversaries, x)


def test_gradient_of_a_plain_module_is_that_of_autograd() -> None:
    (x, y), model = pixels(3), network()
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(cross_entropy(model(leaf), y, reduction="sum"), leaf)
    with torch.no_grad():
        found = input_gradient(model, x, lambda logits: cross_entropy(logits, y, reduction="none"))
    assert torch.equal(found, expected)


@norms
@pytest.mark.parametrize(
    "attack",
    [
        lambda norm: PGD(0.2, 0.1, steps=3, norm=norm),
        lambda norm: StoppingPGD(0.2, 0.1, steps=3, restarts=3, norm=norm),
        lambda norm: MomentumPGD(0.2, 0.4, steps=9, restarts=2, norm=norm),
        lambda norm: MultiTargeted(MomentumPGD(0.2, 0.4, steps=5, norm=norm), targets=3),
        lambda norm: FGSM(0.2, random_start=True, norm=norm),
    ],
    ids=["PGD", "stopping", "momentum", "multi-targeted", "FGSM"],
)
def test_adversaries_do_not_depend_on_who_shares_the_batch(norm: str, attack: Callable[[str], Attack]) -> None:
    (x, _), model, made = pixels(7), network(), attack(norm)
    y = model(x).argmax(dim=1)
    together = made(model, x, y)
    assert (together != x).flatten(1).any(dim=1).all()
    order = torch.tensor([4, 1, 6])
    assert_close(together[order], made(model, x[order], y[order]))


def test_images_draw_other_numbers_for_another_pixel_or_seed() -> None:
    x, _ = pixels(3)
    x[1] = x[0]
    x[2] = x[0]
    x[2, 0, 0, 0] += 1e-9
    first, again, other = (torch.rand(3, generator=generator) for generator in generators(x, 5))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    (seeded,) = generators(x[:1], 6)
    assert not torch.equal(first, torch.rand(3, generator=seeded))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_images_of_every_precision_draw_numbers(dtype: torch.dtype) -> None:
    x, _ = pixels(2, dtype=torch.float32)
    assert len(generators(x.to(dtype).transpose(2, 3), 0)) == 2


def test_neither_the_image_nor_the_model_is_changed() -> None:
    (x, y), model = pixels(3), network()
    before, weights = x.clone(), [parameter.clone() for parameter in model.parameters()]
    adversaries = PGD(0.2, restarts=2)(model, x, y)
    assert torch.equal(x, before)
    assert not adversaries.requires_grad
    assert all(p.grad is None and torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))


def test_logits_that_are_not_finite_are_never_correct() -> None:
    logits = torch.tensor([[1.0, 0.0], [torch.nan, 0.0], [torch.inf, 0.0], [1.0, -torch.inf], [0.0, 1.0]])
    assert correct(logits, torch.zeros(5, dtype=torch.int64)).tolist() == [True, False, False, False, False]


@pytest.mark.parametrize("attack", [PGD(), StoppingPGD(), MomentumPGD()], ids=lambda attack: type(attack).__name__)
def test_attack_is_refused_in_inference_mode_where_every_gradient_would_be_zero(attack: Attack) -> None:
    (x, y), model = pixels(2), network()
    with torch.inference_mode(), pytest.raises(InputError, match=r"inference mode.*torch\.no_grad"):
        attack(model, x, model(x).argmax(dim=1))
    with torch.no_grad():
        assert not torch.equal(attack(model, x, y), x)


def test_model_in_training_mode_is_warned_of() -> None:
    x, y = pixels(2)
    with pytest.warns(UserWarning, match=r"in training mode; call \.eval\(\)"):
        PGD(steps=1)(linear().train(), x, y)


def excess(logits: Tensor, y: Tensor) -> Tensor:
    """How far the best wrong logit is above the right one."""
    right = logits.gather(1, y[:, None])[:, 0]
    return logits.scatter(1, y[:, None], -torch.inf).amax(dim=1) - right


class Excess(PGD):
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return excess(logits, y)


def test_another_loss_can_be_climbed() -> None:
    (x, y), model = pixels(8), network()
    settings: dict[str, Any] = {"eps": 0.2, "step_size": 0.05, "steps": 5, "random_start": False}
    found = PGD(**settings, criterion=excess)(model, x, y)
    assert (excess(model(found), y) > excess(model(x), y)).all()
    assert torch.equal(found, Excess(**settings)(model, x, y))
    assert_close(found, PGD(**settings, criterion="margin")(model, x, y))


def test_a_loss_is_held_by_its_name() -> None:
    assert PGD(criterion=margin) == PGD(criterion="margin")
    with pytest.raises(InputError, match="there is no loss 'margni'; did you mean margin"):
        PGD(criterion="margni")

    def margin_(logits: Tensor, y: Tensor) -> Tensor:
        return logits[:, 0]

    margin_.__name__ = "margin"
    with pytest.raises(InputError, match="there is another loss named 'margin'"):
        PGD(criterion=margin_)


@pytest.mark.parametrize("loss", ["targeted_margin", lambda logits: logits[:, 0]])
def test_a_loss_of_something_else_is_refused(loss: Any) -> None:
    with pytest.raises(InputError, match="does not take logits and the classes to be left; give one that does"):
        PGD(criterion=loss)


def test_norm_is_held_by_its_name_however_it_was_given() -> None:
    for attack in (PGD(norm=Linf()), FGSM(norm=Linf()), StoppingPGD(norm=Linf())):
        assert attack.norm == "Linf"
        assert attack == type(attack)(norm="Linf")
    assert repr(PGD(norm=Linf())) == repr(PGD())


@pytest.mark.parametrize(
    ("attack", "label"),
    [
        (PGD(), "PGD, 10 steps"),
        (PGD(steps=1, restarts=3), "PGD, 3 × 1 step"),
        (FGSM(), "FGSM"),
        (StoppingPGD(steps=20, restarts=5), "PGD up to its first success, 5 × 20 steps"),
        (ContinuedPGD(), "PGD on one model after another, 10 steps"),
        (PGD(criterion="probability_margin"), "PGD, 10 steps on the probability margin"),
        (MomentumPGD(restarts=2), "momentum PGD, 2 × 100 steps"),
        (MultiTargeted(targets=3), "momentum PGD, 100 steps on the targeted dlr, 3 classes"),
        (JointAttack(), "joint attack, 50 steps"),
        (APGD(), "apgd-ce"),
        (AutoAttack(), "AutoAttack"),
        (AutoAttack(version="plus"), "AutoAttack, plus"),
        (Cascade((APGD(), Square())), "apgd-ce, square"),
    ],
)
def test_labels_name_the_attack_and_its_effort(attack: Attack, label: str) -> None:
    assert attack.label == label


@pytest.mark.parametrize(
    ("attack", "cost"),
    [
        (PGD(steps=7, restarts=3), Cost(21, 2)),
        (FGSM(), Cost(1, 0)),
        (StoppingPGD(steps=7, restarts=3), Cost(21, 3)),
        (MomentumPGD(steps=7, restarts=3), Cost(21, 3)),
        (MultiTargeted(PGD(steps=7, restarts=2), targets=3), Cost(42, 6)),
        (MultiTargeted(MomentumPGD(steps=7), targets=3, order=ByDistance(5)), Cost(26, 4)),
        (JointAttack(steps=7, restarts=3), Cost(0, 2, 3 * 21)),
    ],
    ids=repr,
)
def test_cost_is_what_is_run_and_has_a_price(attack: Attack, cost: Cost) -> None:
    assert attack.cost == cost
    assert cost.price(gradient=10, forward=4) == 10 * cost.gradients + 4 * cost.queries + cost.evaluations
