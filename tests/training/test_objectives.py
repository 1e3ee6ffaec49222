"""Objectives: which adversaries a step trains on, and what loss is read there."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import robustdeq as rd
from cells import CLASSES, IMAGE, make_deq
from dense import parameter_differences
from robustdeq.attacks import PGD, JointAttack, MomentumPGD, StoppingPGD
from robustdeq.base.errors import InputError
from robustdeq.deq.tail import Unroll
from robustdeq.gradients import Exact, Phantom, StateGradient, Surrogate, ThroughSolver, UnrolledIntermediate
from robustdeq.models import DEQ, MDEQ
from robustdeq.solvers import Broyden
from robustdeq.training import (
    NFGSM,
    TRADES,
    AdversarialTraining,
    NoiseAugmentation,
    NoisyFGSM,
    Objective,
    OverfittingWatch,
    RandomState,
    Recipe,
    Standard,
)
from robustdeq.training.objectives import Adversaries, Moment

pytestmark = pytest.mark.usefixtures("float64")
ATTACK = PGD(eps=0.2, step_size=0.1, steps=3, seed=5)
Y = torch.tensor([0, 2, 1, 1])


def moment(seed: int = 5, progress: float = 1.0) -> Moment:
    return Moment(7, progress, torch.Generator().manual_seed(seed))


def pixels(seed: int = 1) -> Tensor:
    return 0.25 + 0.5 * torch.rand(4, *IMAGE, generator=torch.Generator().manual_seed(seed))


def network() -> nn.Module:
    """An explicit network, with an attribute of a name that a warm-started surrogate has too."""
    torch.manual_seed(2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, CLASSES))
    model.register_buffer("state", torch.zeros(4, 7))
    return model


@pytest.fixture
def mdeq() -> MDEQ:
    config = replace(rd.models.PRESETS["nano"], max_steps=3, dropout=0.5, image_size=4)
    return rd.models.mdeq(config, num_classes=CLASSES, in_channels=1).train()


def squares() -> Tensor:
    return torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def weight_gradients(model: nn.Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


def evaluations_of(deq: DEQ) -> list[Tensor]:
    """A list that grows by one with every evaluation of f."""
    calls: list[Tensor] = []
    deq.cell.register_forward_hook(lambda module, inputs, output: calls.append(output))
    return calls


def test_standard_training_sees_the_images() -> None:
    deq, x = make_deq(gradient=ThroughSolver()), pixels()
    found = Standard().adversaries(deq, x, Y, moment())
    reading = Standard().read(deq, x, Y, found, moment())
    assert found.images is x
    assert_close(reading.loss, nn.functional.cross_entropy(deq(x), Y))
    assert Standard().strengthened() == Standard()


def test_noise_is_gaussian_and_fresh_in_every_step() -> None:
    deq, x, y = make_deq(gradient=ThroughSolver()), torch.zeros(4000, *IMAGE), torch.zeros(4000, dtype=torch.long)
    first, second = (NoiseAugmentation(0.3).adversaries(deq, x, y, moment(seed)).images for seed in (1, 2))
    for noise in (first, second):
        assert_close(noise.mean(), torch.tensor(0.0), atol=0.01, rtol=0)
        assert_close(noise.std(), torch.tensor(0.3), atol=0.01, rtol=0)
    assert abs(float((first * second).mean())) < 0.01
    assert torch.equal(first, NoiseAugmentation(0.3).adversaries(deq, x, y, moment(1)).images)
    with pytest.raises(InputError, match="give a positive standard deviation"):
        NoiseAugmentation(0.0)


def climbed(attack: PGD, surrogate: nn.Module, x: Tensor) -> Tensor:
    """One run of an attack from where a step of the training that has the attack's seed starts it."""
    start = attack.start(x, torch.Generator().manual_seed(attack.seed))
    return attack.run(surrogate, x, start, partial(attack.loss, y=Y))


@pytest.mark.parametrize("gradient", [Phantom(), Exact(), ThroughSolver()], ids=repr)
def test_adversaries_are_those_of_the_attack_on_the_model_in_eval_mode(mdeq: MDEQ, gradient: StateGradient) -> None:
    x = squares()
    found = AdversarialTraining(ATTACK, gradient).adversaries(mdeq, x, Y, moment(ATTACK.seed))
    assert mdeq.training
    assert torch.equal(found.images, climbed(ATTACK, Surrogate(mdeq.eval(), gradient), x))
    assert not found.images.requires_grad
    assert (found.state, found.steps) == (None, None)


class Halving(PGD):
    def step(self, x: Tensor, gradient: Tensor, center: Tensor) -> Tensor:
        return super().step(x, gradient / gradient.abs().sum(), center).lerp(center, 0.5)


@pytest.mark.parametrize("attack", [Halving(0.2, 0.1, 3), JointAttack(0.2, 0.1, 3)], ids=lambda attack: attack.label)
def test_what_an_attack_overrides_is_what_training_uses(attack: PGD) -> None:
    deq, x = make_deq(gradient=Exact()).eval(), pixels()
    found = AdversarialTraining(attack).adversaries(deq, x, Y, moment(attack.seed))
    assert torch.equal(found.images, climbed(attack, Surrogate(deq, Exact()), x))
    assert not torch.equal(found.images, climbed(PGD(0.2, 0.1, 3), Surrogate(deq, Exact()), x))


def test_adversaries_of_an_explicit_network_climb_its_autograd() -> None:
    model, x = network(), pixels()
    found = AdversarialTraining(ATTACK, warm_steps=2).adversaries(model, x, Y, moment(ATTACK.seed))
    assert torch.equal(found.images, climbed(ATTACK, model.eval(), x))
    assert (found.state, found.steps) == (None, None)


@pytest.mark.parametrize("gradient", [ThroughSolver(), None], ids=repr)
def test_no_gradient_is_that_of_the_weights(gradient: StateGradient | None) -> None:
    deq, x = make_deq("expansive", tail=Unroll(3, 0.7), gradient=gradient), pixels()
    found = AdversarialTraining(ATTACK).adversaries(deq, x, Y, moment(ATTACK.seed))
    assert_close(found.images, climbed(ATTACK, nn.Sequential(deq).eval(), x))


@dataclass(frozen=True)
class Watching(Phantom):
    """The phantom gradient; remembers the mode of the model and whether its weights are frozen."""

    seen: list[tuple[bool, bool]] = field(default_factory=list)

    def input_gradient(self, deq: DEQ, x: Tensor, loss: object) -> Tensor:
        self.seen.append((deq.training, any(parameter.requires_grad for parameter in deq.parameters())))
        return super().input_gradient(deq, x, loss)


@pytest.mark.parametrize("objective", [AdversarialTraining, TRADES])
def test_model_is_frozen_in_eval_mode_only_while_it_is_attacked(
    mdeq: MDEQ, objective: type[AdversarialTraining]
) -> None:
    gradient = Watching()
    mdeq.injection.eval()
    modes = [module.training for module in mdeq.modules()]
    statistics = {name: tensor.clone() for name, tensor in mdeq.state_dict().items()}
    objective(ATTACK, gradient).adversaries(mdeq, squares(), Y, moment())
    assert gradient.seen == [(False, False)] * ATTACK.steps
    assert_close(dict(mdeq.state_dict()), statistics, rtol=0, atol=0)
    assert [module.training for module in mdeq.modules()] == modes
    assert all(parameter.requires_grad and parameter.grad is None for parameter in mdeq.parameters())


@pytest.mark.parametrize(
    ("warmup", "progress", "share"),
    [(0.0, 0.0, 1.0), (0.5, 0.1, 0.2), (0.5, 0.25, 0.5), (0.5, 0.5, 1.0), (0.5, 0.9, 1.0), (1.0, 0.5, 0.5)],
)
@pytest.mark.parametrize("objective", [AdversarialTraining, TRADES])
def test_radius_grows_linearly_during_the_warmup(
    warmup: float, progress: float, share: float, objective: type[AdversarialTraining]
) -> None:
    x = pixels()
    found = objective(replace(ATTACK, step_size=1.0), warmup=warmup).adversaries(network(), x, Y, moment(5, progress))
    assert float((found.images - x).abs().max()) == pytest.approx(share * ATTACK.eps)


def test_radius_starts_near_zero() -> None:
    x = pixels()
    found = AdversarialTraining(ATTACK, warmup=0.5).adversaries(network(), x, Y, moment(5, 0.0))
    assert 0 < float((found.images - x).abs().max()) < 1e-2 * ATTACK.eps


@pytest.mark.parametrize("objective", [AdversarialTraining, TRADES])
@pytest.mark.parametrize("gradient", [Exact(60, 1e-12), ThroughSolver()], ids=repr)
def test_warm_started_adversaries_of_a_converged_model_are_the_cold_ones(
    objective: type[AdversarialTraining], gradient: StateGradient
) -> None:
    deq, x = make_deq("contractive", Broyden(max_steps=40, tol=1e-13), gradient=gradient), pixels()
    cold = objective(ATTACK).adversaries(deq, x, Y, moment())
    warm = objective(ATTACK, warm_steps=40).adversaries(deq, x, Y, moment())
    assert_close(warm.images, cold.images, rtol=0, atol=1e-6)
    before_last = objective(replace(ATTACK, steps=ATTACK.steps - 1)).adversaries(deq, x, Y, moment())
    assert (before_last.images - cold.images).abs().amax() > 0.01
    assert warm.state is not None
    assert_close(warm.state, deq.solve(before_last.images).solution, rtol=0, atol=1e-9)


@pytest.mark.parametrize("warm_steps", [1, 2])
def test_warm_start_spares_evaluations_and_leads_the_loss_on_from_the_state_of_the_attack(warm_steps: int) -> None:
    deq, x = make_deq("convolution", Broyden(max_steps=8, tol=0)), pixels()
    calls, objective = evaluations_of(deq), AdversarialTraining(ATTACK, Phantom(2, 0.5), warm_steps=warm_steps)
    found = objective.adversaries(deq, x, Y, moment())
    later = warm_steps + 1 + 2
    assert len(calls) == 8 + 1 + 2 + (ATTACK.steps - 1) * later
    calls.clear()
    reading = objective.read(deq, x, Y, found, moment())
    assert len(calls) == warm_steps + 1 + deq.tail.steps
    assert reading.solution is not None and found.state is not None
    assert reading.solution.trajectory.max_steps == warm_steps
    assert torch.equal(reading.solution.trajectory.initial, found.state.flatten(1))
    assert deq.solver.max_steps == 8


def test_warm_start_makes_up_for_steps() -> None:
    deq, x = make_deq("expansive", Broyden(max_steps=30, tol=0)), pixels()
    objective = AdversarialTraining(replace(ATTACK, step_size=0.02), Phantom(), warm_steps=3)
    found = objective.adversaries(deq, x, Y, moment())
    warm = objective.read(deq, x, Y, found, moment()).solution
    cold = make_deq("expansive", Broyden(max_steps=3, tol=0)).solution(found.images)
    assert warm is not None
    assert (warm.trajectory.residuals[-1] < 0.1 * cold.trajectory.residuals[-1]).all()


@pytest.mark.parametrize(
    "gradient", [UnrolledIntermediate(3), ThroughSolver(rd.defenses.EarlyState(3))], ids=["unrolled", "solver"]
)
def test_gradient_of_an_intermediate_state_cannot_be_warm_started(gradient: StateGradient) -> None:
    with pytest.raises(InputError, match="reads z_3"):
        AdversarialTraining(ATTACK, gradient, warm_steps=2).adversaries(make_deq(), pixels(), Y, moment())


def test_strengthened_attack_makes_one_step_more_and_covers_the_ball_twice() -> None:
    fast = TRADES(replace(ATTACK, steps=1, step_size=0.25), Phantom(), warmup=0.1, beta=3.0)
    assert fast.strengthened() == replace(fast, attack=replace(ATTACK, steps=2, step_size=0.2))
    noisy = AdversarialTraining(NFGSM(eps=0.2, step_size=0.3, seed=4))
    assert noisy.strengthened() == AdversarialTraining(PGD(eps=0.2, step_size=0.2, steps=2, seed=4))


class Guarded(PGD):
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return -super().loss(logits, y)


@pytest.mark.parametrize("attack", [Guarded(0.2, 0.1, 1), JointAttack(0.2, 0.1, 1), Halving(0.2, 0.1, 1)], ids=repr)
def test_strengthened_attack_keeps_what_it_overrides(attack: PGD) -> None:
    deq, x = make_deq(gradient=Exact()).eval(), pixels()
    found = AdversarialTraining(attack).strengthened().adversaries(deq, x, Y, moment(attack.seed))
    stronger = replace(attack, steps=2, step_size=0.2)
    assert torch.equal(found.images, climbed(stronger, Surrogate(deq, Exact()), x))
    assert not torch.equal(found.images, climbed(PGD(0.2, 0.2, 2), Surrogate(deq, Exact()), x))


@dataclass(frozen=True)
class GuardedNFGSM(NFGSM):
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return -super().loss(logits, y)


def test_n_fgsm_whose_loss_more_steps_would_lose_is_not_strengthened() -> None:
    objective = AdversarialTraining(GuardedNFGSM())
    for strengthen in (objective.strengthened, lambda: Recipe(objective, overfitting=OverfittingWatch(every=5))):
        with pytest.raises(InputError, match="GuardedNFGSM overrides loss, which PGD of more steps would lose"):
            strengthen()
    assert Recipe(objective).objective == objective


def kl_by_hand(model: Callable[[Tensor], Tensor], clean: Tensor, adversarial: Tensor) -> Tensor:
    p, q = model(clean).softmax(1), model(adversarial).softmax(1)
    return (p * (p / q).log()).sum(1)


def test_trades_adds_the_divergence_and_is_differentiated_on_both_sides() -> None:
    deq, x = make_deq("expansive", gradient=ThroughSolver()), pixels()
    objective, found = TRADES(ATTACK, beta=2.5), Adversaries(pixels(9))

    def loss() -> Tensor:
        return objective.read(deq, x, Y, found, moment()).loss

    expected = nn.functional.cross_entropy(deq(x), Y) + 2.5 * kl_by_hand(deq, x, found.images).mean()
    assert_close(loss(), expected, rtol=1e-12, atol=0)
    for name in ("cell.weight", "injection.1.weight", "head.1.weight"):
        weight = deq.get_parameter(name)
        (gradient,) = torch.autograd.grad(loss(), weight)
        with torch.no_grad():
            assert_close(gradient[1, 2], parameter_differences(loss, weight[1, 2]), rtol=1e-6, atol=1e-10)


def test_trades_without_weight_is_clean_training() -> None:
    deq, x = make_deq(gradient=Phantom()), pixels()
    found = Adversaries(pixels(9))
    trades = TRADES(ATTACK, beta=0.0).read(deq, x, Y, found, moment())
    standard = Standard().read(deq, x, Y, Adversaries(x), moment())
    assert_close(trades.loss, standard.loss)
    assert_close(weight_gradients(deq, trades.loss), weight_gradients(deq, standard.loss))


def test_attack_of_trades_ascends_the_divergence_from_its_random_start() -> None:
    model, x = network(), pixels()
    found = TRADES(ATTACK).adversaries(model, x, Y, moment())
    model.eval()
    expected = start = x + 0.2 * (2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(5)) - 1)
    for _ in range(ATTACK.steps):
        expected = expected.requires_grad_()
        (gradient,) = torch.autograd.grad(kl_by_hand(model, x, expected).sum(), expected)
        expected = (expected + 0.1 * gradient.sign()).detach().clamp(x - 0.2, x + 0.2).clamp(0, 1)
    assert_close(found.images, expected)
    assert (kl_by_hand(model, x, found.images) > 2 * kl_by_hand(model, x, start)).all()


def test_attack_of_trades_must_not_start_where_the_divergence_is_flat() -> None:
    model, x = network().eval(), pixels()
    at = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(kl_by_hand(model, x, at).sum(), at)
    assert gradient.abs().max() < 1e-12
    with pytest.raises(InputError, match="set random_start"):
        TRADES(replace(ATTACK, random_start=False))


RANDOM = RandomState(ATTACK, steps=1, damping=0.6)
STEPS = 4


def loss_at_state(deq: DEQ, x: Tensor, n: int) -> Tensor:
    """The cross-entropy one damped step behind z_n, written out."""
    u, z = deq.injection(x), deq.solve(x).states[n - 1].detach()
    return nn.functional.cross_entropy(deq.head(0.4 * z + 0.6 * deq.cell(z, u)), Y)


def test_random_state_draws_every_state_and_reads_the_loss_there() -> None:
    deq, x = make_deq("expansive", Broyden(max_steps=STEPS, tol=0)), pixels()
    calls, drawn = evaluations_of(deq), set()
    for seed in range(40):
        at = moment(seed)
        calls.clear()
        reading = RANDOM.read(deq, x, Y, Adversaries(x), at)
        n = len(calls) - 1
        at.generator.manual_seed(seed)
        torch.rand(3)
        assert_close(RANDOM.read(deq, x, Y, Adversaries(x), at).loss, reading.loss, rtol=0, atol=0)
        if n not in drawn:
            expected = nn.functional.cross_entropy(deq(x), Y) if n == STEPS + 1 else loss_at_state(deq, x, n)
            assert_close(reading.loss, expected)
            assert_close(weight_gradients(deq, reading.loss), weight_gradients(deq, expected))
        drawn.add(n)
    assert drawn == set(range(1, STEPS + 2))


def test_random_state_is_drawn_apart_from_the_noise_of_the_attack() -> None:
    deq, x = make_deq(solver=Broyden(max_steps=STEPS, tol=0)), pixels()
    calls, by_noise = evaluations_of(deq), set()
    for seed in range(40):
        calls.clear()
        RANDOM.read(deq, x, Y, Adversaries(x), moment(seed))
        first = torch.randint(STEPS + 1, (), generator=torch.Generator().manual_seed(seed))
        by_noise.add((int(first), len(calls)))
    assert len(by_noise) > 2 * (STEPS + 1)


def test_explicit_network_has_no_random_state() -> None:
    with pytest.raises(InputError, match="a Sequential has no intermediate states"):
        RANDOM.read(network(), pixels(), Y, Adversaries(pixels()), moment())


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: AdversarialTraining(warmup=-0.1), "warmup"),
        (lambda: AdversarialTraining(warmup=1.1), "warmup"),
        (lambda: AdversarialTraining(warmup=float("nan")), "warmup"),
        (lambda: AdversarialTraining(warm_steps=0), "warm_steps"),
        (lambda: AdversarialTraining(PGD(restarts=2)), "restarts"),
        (lambda: AdversarialTraining(PGD(targeted=True)), "targeted"),
        (lambda: AdversarialTraining(StoppingPGD()), "StoppingPGD makes its runs in a way of its own"),
        (lambda: TRADES(MomentumPGD()), "MomentumPGD makes its runs in a way of its own"),
        (lambda: TRADES(beta=-1.0), "beta"),
        (lambda: TRADES(beta=float("nan")), "beta"),
        (lambda: TRADES(warmup=2.0), "warmup"),
        (lambda: RandomState(steps=0), "steps"),
        (lambda: RandomState(damping=1.5), "damping"),
        (lambda: RandomState(warm_steps=0), "warm_steps"),
    ],
)
def test_setting_that_cannot_be_is_refused(make: Callable[[], Objective], named: str) -> None:
    with pytest.raises(InputError, match=named):
        make()


@pytest.mark.parametrize("progress", [0.25, 1.0])
def test_noisy_fgsm_is_n_fgsm_of_the_radius_at_that_moment(progress: float) -> None:
    deq, x = make_deq(gradient=Phantom()), pixels()
    objective = NoisyFGSM(PGD(eps=0.2, steps=7), warmup=0.5, noise=1.5)
    eps = 0.2 * min(progress / 0.5, 1)
    expected = climbed(NFGSM(eps, eps, noise=1.5, seed=3), Surrogate(deq, Phantom()).eval(), x)
    found = objective.adversaries(deq, x, Y, moment(3, progress)).images
    assert_close(found, expected)
    same = AdversarialTraining(NFGSM(0.2, 0.2, noise=1.5), warmup=0.5)
    assert torch.equal(found, same.adversaries(deq, x, Y, moment(3, progress)).images)


def test_noisy_fgsm_gives_way_to_two_projected_steps() -> None:
    stronger = NoisyFGSM(PGD(eps=0.2, steps=7), Phantom(), warmup=0.5).strengthened()
    assert type(stronger) is AdversarialTraining
    assert (stronger.attack, stronger.gradient, stronger.warmup) == (PGD(0.2, 0.2, steps=2), Phantom(), 0.5)


@pytest.mark.parametrize(
    ("settings", "message"), [({"noise": 0.0}, "noise is 0"), ({"attack": PGD(norm="L2")}, "Linf")]
)
def test_noisy_fgsm_that_cannot_be_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        NoisyFGSM(**settings)  # pyright: ignore[reportArgumentType]
