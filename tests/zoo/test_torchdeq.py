"""A TorchDEQ model as ours: its logits, its states and its gradients are TorchDEQ's own."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchdeq import get_deq, reset_deq
from torchdeq.norm import apply_norm

import robustdeq as rd
from cells import with_norm
from robustdeq.base.errors import InputError
from robustdeq.models import DEQ, Unroll
from robustdeq.solvers import Anderson, Broyden, Picard
from robustdeq.zoo.torchdeq import from_torchdeq

pytestmark = pytest.mark.usefixtures("float64")
SOLVERS = ("broyden", "anderson", "fixed_point_iter", "simple_fixed_point_iter")
CONVERGED = {"f_max_iter": 60, "f_tol": 1e-12, "b_max_iter": 80, "b_tol": 1e-13}


class Flat(nn.Module):
    """A state (B, D)."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.Tanh())
        self.mix = nn.Linear(7, 7)
        self.mix.weight = nn.Parameter(with_norm(self.mix.weight.detach(), 0.6))
        self.deq = get_deq(**settings)
        self.classifier = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        u = self.stem(x)
        states, _ = self.deq(lambda z: torch.tanh(self.mix(z) + u), torch.zeros_like(u))
        return self.classifier(states[-1])


class Convolutional(nn.Module):
    """A state (B, C, H, W) that starts from the image, with TorchDEQ's weight normalisation and a core further down."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.mix = nn.Conv2d(4, 4, 3, padding=1)
        with torch.no_grad():
            self.mix.weight.mul_(0.3)
        apply_norm(self.mix, norm_type="weight_norm")
        self.solve = nn.ModuleDict({"core": get_deq(**settings)})
        self.classifier = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        reset_deq(self)
        u = self.stem(x)

        def f(z: Tensor) -> Tensor:
            return torch.tanh(self.mix(z) + u)

        states, info = self.solve["core"](f, torch.sin(u))
        assert "nstep" in info
        return self.classifier(states[-1].flatten(1))


class Multiscale(nn.Module):
    """A state of two tensors."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.stem = nn.Linear(12, 4)
        self.down, self.up = nn.Linear(8, 3), nn.Linear(3, 8)
        self.deq = get_deq(**settings)
        self.classifier = nn.Linear(11, 3)

    def forward(self, x: Tensor) -> Tensor:
        u = self.stem(x.flatten(1))

        def f(fine: Tensor, coarse: Tensor) -> Sequence[Tensor]:
            mixed = 0.5 * torch.tanh(self.up(coarse).view_as(fine) + u.unsqueeze(1))
            return mixed, 0.5 * torch.tanh(self.down(fine.flatten(1)))

        start = (u.new_zeros(len(u), 2, 4), u.new_zeros(len(u), 3))
        fine, coarse = self.deq(f, start)[0][-1]
        return self.classifier(torch.cat([fine.flatten(1), coarse], dim=1))


MODELS = (Flat, Convolutional, Multiscale)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(5, 3, 2, 2)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("model", MODELS)
def test_logits_are_those_of_torchdeq(model: type[nn.Module], solver: str, x: Tensor) -> None:
    module = model(f_solver=solver, **CONVERGED).eval()
    deq = rd.models.from_torchdeq(module, x)
    torch.testing.assert_close(deq(x), module(x), rtol=1e-8, atol=1e-8)
    assert len(deq(x[:2])) == 2
    assert deq.solve(x).residuals[-1].max() < 1e-8


@pytest.mark.parametrize(("steps", "stop"), [(3, "abs"), (5, "rel")])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("model", MODELS)
def test_solve_that_does_not_converge_ends_where_that_of_torchdeq_ends(
    model: type[nn.Module], solver: str, steps: int, stop: str, x: Tensor
) -> None:
    module = model(f_solver=solver, f_max_iter=30, eval_f_max_iter=steps, f_tol=1e-12, f_stop_mode=stop).eval()
    torch.testing.assert_close(from_torchdeq(module, x[:1])(x), module(x), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("solver", ["broyden", "fixed_point_iter"])
@pytest.mark.parametrize(
    ("settings", "gradient"),
    [
        ({"ift": True}, rd.gradients.Exact(max_steps=60, tol=1e-12)),
        ({"grad": 3, "tau": 0.6}, rd.gradients.Phantom(steps=3, damping=0.6)),
    ],
    ids=["implicit", "phantom"],
)
@pytest.mark.parametrize("model", MODELS)
def test_gradients_are_those_that_torchdeq_trains_with(
    model: type[nn.Module], settings: dict[str, Any], gradient: Any, solver: str, x: Tensor
) -> None:
    module = model(f_solver=solver, **CONVERGED, **settings)
    ours = from_torchdeq(module, x, gradient=gradient)
    inputs = x.clone().requires_grad_(), x.clone().requires_grad_()
    weights = tuple(module.parameters())
    target = torch.randn(5, 3)
    theirs_by = torch.autograd.grad((module.train()(inputs[0]) * target).sum(), (inputs[0], *weights))
    ours.eval()
    ours_by = torch.autograd.grad((ours(inputs[1]) * target).sum(), (inputs[1], *weights))
    torch.testing.assert_close(ours_by, theirs_by, rtol=1e-6, atol=1e-8)
    attacked = rd.Surrogate(ours, gradient).input_gradient(x, lambda logits: (logits * target).sum(dim=1))
    torch.testing.assert_close(attacked, theirs_by[0], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("model", MODELS)
def test_gradient_through_the_solver_is_that_of_finite_differences(model: type[nn.Module], x: Tensor) -> None:
    deq = from_torchdeq(model(f_solver="broyden", f_max_iter=3, f_tol=0.0), x)
    gradient, direction = rd.gradients.ThroughSolver(), torch.randn_like(x)
    step = 1e-6
    slope = (deq(x + step * direction) - deq(x - step * direction)).sum(dim=1) / (2 * step)
    by_x = gradient.input_gradient(deq, x, lambda logits: logits.sum(dim=1))
    torch.testing.assert_close((by_x * direction).flatten(1).sum(dim=1), slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("model", MODELS)
def test_every_state_can_be_attacked_and_read(model: type[nn.Module], x: Tensor) -> None:
    deq = from_torchdeq(model(f_solver="broyden", f_max_iter=5), x)
    swept = rd.gradients.SimultaneousAdjoint().input_gradients(deq, x, lambda logits: logits.sum(dim=1))
    assert swept.shape == (deq.last_state, *x.shape)
    assert (swept.flatten(2).norm(dim=2) > 0).all()
    assert rd.Defended(deq, rd.defenses.EnsembleState())(x).isfinite().all()


def test_module_is_left_as_it_was_and_its_weights_are_shared(x: Tensor) -> None:
    module = Flat()
    deq = from_torchdeq(module, x)
    assert "forward" not in vars(module.deq)
    assert set(deq.parameters()) == set(module.parameters())
    before = deq(x)
    with torch.no_grad():
        module.classifier.bias.add_(1)
    torch.testing.assert_close(deq(x), before + 1)


@pytest.mark.parametrize(
    ("settings", "solver", "tail"),
    [
        (
            {"f_solver": "broyden", "f_max_iter": 9, "f_tol": 1e-4, "f_stop_mode": "rel"},
            Broyden(9, 1e-4, "rel"),
            Unroll(0),
        ),
        (
            {"f_solver": "anderson", "f_max_iter": 9},
            Anderson(8, 1e-3, "abs", history=6, ridge=1e-4),
            Unroll(0, from_image=True),
        ),
        ({"f_max_iter": 10, "eval_factor": 2}, Picard(19, 1e-3, "abs"), Unroll(1, 1.0)),
        (
            {"f_solver": "simple_fixed_point_iter", "f_max_iter": 9},
            Picard(8, 0.0, "abs", result="last"),
            Unroll(1, 1.0),
        ),
    ],
)
def test_settings_of_the_core_are_taken_over(settings: dict[str, Any], solver: Any, tail: Unroll, x: Tensor) -> None:
    deq = from_torchdeq(Flat(**settings), x)
    assert (deq.solver, deq.tail) == (solver, tail)
    mine = replace(solver, max_steps=4)
    assert from_torchdeq(Flat(**settings), x, solver=mine).solver == mine
    assert from_torchdeq(Flat(**settings), x, tail=Unroll(2, 0.5)).tail == Unroll(2, 0.5)


class ByName(Flat):
    """A model that names what it hands to its core."""

    def forward(self, x: Tensor) -> Tensor:
        u = self.stem(x)
        states, _ = self.deq(func=lambda z: torch.tanh(self.mix(z) + u), z_star=torch.zeros_like(u))
        return self.classifier(states[-1])


def test_core_that_is_called_by_name_is_found(x: Tensor) -> None:
    module = ByName(**CONVERGED).eval()
    torch.testing.assert_close(from_torchdeq(module, x)(x), module(x), rtol=1e-8, atol=1e-8)


class WithSettings(Flat):
    """A model that passes settings with the call."""

    kwargs: dict[str, Any]

    def forward(self, x: Tensor) -> Tensor:
        u = self.stem(x)
        states, _ = self.deq(lambda z: torch.tanh(self.mix(z) + u), torch.zeros_like(u), solver_kwargs=self.kwargs)
        return self.classifier(states[-1])


@pytest.mark.parametrize("solver", ["anderson", "fixed_point_iter", "simple_fixed_point_iter"])
def test_settings_that_come_with_the_call_count(solver: str, x: Tensor) -> None:
    module = WithSettings(f_solver=solver, f_tol=1e-12)
    module.kwargs = {"f_max_iter": 5, "m": 2, "lam": 1e-2} | ({} if solver == "anderson" else {"tau": 0.7})
    torch.testing.assert_close(from_torchdeq(module, x)(x), module(x), rtol=1e-8, atol=1e-10)
    module.kwargs = {"return_final": True}
    with pytest.raises(InputError, match="the settings return_final of the model's TorchDEQ core"):
        from_torchdeq(module, x)
    assert isinstance(from_torchdeq(module, x, solver=Picard(), tail=Unroll()), DEQ)


class Several(Flat):
    """A model with two cores."""

    def __init__(self) -> None:
        super().__init__()
        self.other = get_deq()


class Twice(Flat):
    """A model that solves twice."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + super().forward(x)


class Never(Flat):
    """A model that does not use its core."""

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.stem(x))


class Parts(Flat):
    """`Flat`, with parts of its forward to override."""

    def inject(self, x: Tensor) -> Tensor:
        return self.stem(x)

    def start(self, u: Tensor) -> Tensor:
        return torch.zeros_like(u)

    def f(self, z: Tensor, u: Tensor) -> Tensor:
        return torch.tanh(self.mix(z) + u)

    def head(self, z: Tensor, x: Tensor, info: dict[str, Tensor]) -> Tensor:
        return self.classifier(z)

    def settings(self) -> dict[str, Any]:
        return {}

    def forward(self, x: Tensor) -> Tensor:
        u = self.inject(x)
        states, info = self.deq(lambda z: self.f(z, u), self.start(u), solver_kwargs=self.settings())
        return self.head(states[-1], x, info)


class Skipping(Parts):
    def head(self, z: Tensor, x: Tensor, info: dict[str, Tensor]) -> Tensor:
        return self.classifier(z) + x.flatten(1)[:, :3]


class DetachedSkip(Parts):
    def head(self, z: Tensor, x: Tensor, info: dict[str, Tensor]) -> Tensor:
        return self.classifier(z) + x.detach().flatten(1)[:, :3]


class ThresholdedSkip(Parts):
    def head(self, z: Tensor, x: Tensor, info: dict[str, Tensor]) -> Tensor:
        return self.classifier(z) + 3.0 * (x.flatten(1)[:, :3] > 0.1)


class BrightnessSkip(Parts):
    def head(self, z: Tensor, x: Tensor, info: dict[str, Tensor]) -> Tensor:
        return torch.where(x.flatten(1).mean(dim=1, keepdim=True) > 0.7, -1, 1) * self.classifier(z)


class NoisyInjection(Parts):
    def inject(self, x: Tensor) -> Tensor:
        u = self.stem(x)
        return u + 0.01 * torch.randn_like(u)


class NoisyStep(Parts):
    def f(self, z: Tensor, u: Tensor) -> Tensor:
        return nn.functional.dropout(super().f(z, u), 0.1, training=True)


class NoisyHead(Parts):
    def head(self, z: Tensor, x: Tensor, info: dict[str, Tensor]) -> Tensor:
        return self.classifier(z) + 0.01 * torch.randn(len(z), 3)


class WarmStart(Parts):
    """z_0 is where the solve before ended."""

    def start(self, u: Tensor) -> Tensor:
        last = getattr(self, "last", None)
        return torch.zeros_like(u) if last is None or last.shape != u.shape else last

    def head(self, z: Tensor, x: Tensor, info: dict[str, Tensor]) -> Tensor:
        self.last = z.detach()
        return self.classifier(z)


class Counting(Parts):
    def head(self, z: Tensor, x: Tensor, info: dict[str, Tensor]) -> Tensor:
        return self.classifier(z) * info["nstep"].view(-1, 1)


class Centred(Parts):
    def inject(self, x: Tensor) -> Tensor:
        u = self.stem(x)
        return u - u.mean(dim=0)


class CentredLogits(Parts):
    def head(self, z: Tensor, x: Tensor, info: dict[str, Tensor]) -> Tensor:
        logits = self.classifier(z)
        return logits - logits.mean(dim=0)


class LongerEachTime(Parts):
    calls = 5

    def settings(self) -> dict[str, Any]:
        self.calls += 1
        return {"f_max_iter": self.calls}


class AlwaysTraining(Parts):
    def train(self, mode: bool = True) -> nn.Module:
        return super().train(True)


class Pair(Flat):
    """Logits and something else."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x), 0


class Transposed(nn.Module):
    """A state with the batch last."""

    def __init__(self) -> None:
        super().__init__()
        self.deq = get_deq()

    def forward(self, x: Tensor) -> Tensor:
        u = x.flatten(1).T
        return self.deq(lambda z: 0.1 * z + u, torch.zeros_like(u))[0][-1].T


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (lambda: nn.Linear(2, 2), "the model has 0 TorchDEQ cores"),
        (Several, "the model has 2 TorchDEQ cores"),
        (Twice, "calls its TorchDEQ core more than once"),
        (Never, "does not call its TorchDEQ core"),
        (Skipping, "the logits depend on x past the state"),
        (DetachedSkip, "the logits depend on x past the state"),
        (ThresholdedSkip, "the logits depend on x past the state"),
        (BrightnessSkip, "the logits depend on x past the state"),
        (NoisyInjection, "the injection, z_0 or f of the model changes from call to call"),
        (NoisyStep, "the injection, z_0 or f of the model changes from call to call"),
        (WarmStart, "the injection, z_0 or f of the model changes from call to call"),
        (NoisyHead, "the head of the model changes from call to call"),
        (Counting, "the logits depend on the statistics of the solver"),
        (Centred, "the samples of a batch depend on each other"),
        (CentredLogits, "the samples of a batch depend on each other"),
        (LongerEachTime, "the solver's settings change from call to call"),
        (AlwaysTraining, r"is in training mode; call eval\(\) on it"),
        (Pair, r"does not return logits \(B, K\) alone"),
        (Transposed, "the state of the model is not 5 samples"),
        (get_deq, "the model has 1 TorchDEQ cores among its submodules; give a module that has one of its own"),
    ],
)
def test_model_that_one_call_does_not_cut_in_two_is_refused(module: Any, message: str, x: Tensor) -> None:
    with pytest.raises(InputError, match=message):
        from_torchdeq(module(), x)


def test_model_of_overridable_parts_is_accepted_whatever_the_example(x: Tensor) -> None:
    module = Parts(f_tol=1e-10)
    for example in (x, x[:1], torch.zeros_like(x)):
        torch.testing.assert_close(from_torchdeq(module, example)(x), module(x), rtol=1e-7, atol=1e-7)


def test_conversion_draws_no_random_numbers(x: Tensor) -> None:
    module, before = Flat(), torch.random.get_rng_state()
    from_torchdeq(module, x)
    assert torch.equal(torch.random.get_rng_state(), before)


class Expanding(Flat):
    """A cell that is no contraction: z oscillates, and f(z_0) may be the best that there is."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.mix.weight = nn.Parameter(with_norm(self.mix.weight.detach(), 9.0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Expanding(f_max_iter=4), "our solve ends elsewhere than TorchDEQ's"),
        (lambda: Flat(f_solver="anderson", f_max_iter=2), "with an f_max_iter of 2 .* raise it to 3 or more"),
        (lambda: Flat(f_max_iter=1), "with an f_max_iter of 1 .* raise it to 2 or more"),
        (lambda: Damped(f_solver="anderson"), "TorchDEQ does not damp the first step of Anderson's method"),
    ],
)
def test_solve_that_ends_elsewhere_is_refused_unless_a_solver_and_a_tail_are_given(
    make: Any, message: str, x: Tensor
) -> None:
    with pytest.raises(InputError, match=message):
        from_torchdeq(make(), x)
    assert from_torchdeq(make(), x, solver=Picard(), tail=Unroll()).solver == Picard()


class Damped(Parts):
    def settings(self) -> dict[str, Any]:
        return {"tau": 0.7}


def test_model_in_training_mode_does_not_run(x: Tensor) -> None:
    module = Flat()
    deq = from_torchdeq(module, x)
    for part in (module, deq, module.stem):
        part.train()
        with pytest.raises(InputError, match=r"is in training mode; call eval\(\) on it"):
            deq(x)
        assert deq.eval()(x).isfinite().all()
