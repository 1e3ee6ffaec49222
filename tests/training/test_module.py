"""A training step: what the model is while it lasts, what its loss is made of, and that the host never waits in it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.overrides import TorchFunctionMode
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

import dense
import robustdeq as rd
from cells import CLASSES, IMAGE, make_deq
from diverging import BRIGHT, CLASS, DIM, diverging
from robustdeq.attacks import PGD
from robustdeq.attacks.losses import correct
from robustdeq.base.errors import InputError
from robustdeq.data import Batches, RandomCropFlip
from robustdeq.deq.cell import Execution
from robustdeq.deq.tail import Unroll
from robustdeq.gradients import Phantom, StateGradient, Surrogate, ThroughSolver
from robustdeq.models import DEQ, MDEQ
from robustdeq.solvers import Broyden, Solver
from robustdeq.training import (
    NFGSM,
    TRADES,
    AdversarialTraining,
    FixedPointCorrection,
    JacobianRegularization,
    Objective,
    Pretraining,
    Recipe,
    Regularization,
    Schedule,
    SolverSteps,
    Standard,
    Training,
    Validation,
    jacobian_penalty,
)
from robustdeq.training.module import _seed
from robustdeq.training.objectives import Adversaries, Moment, Reading

pytestmark = pytest.mark.usefixtures("float64")
ATTACK = PGD(eps=0.1, step_size=0.05, steps=2)
Y = torch.tensor([0, 2, 1, 1])
CORRECTED = Regularization(correction=FixedPointCorrection(1.0))


class Step(Training):
    """A training that stands where a test puts it, and keeps what it logs."""

    global_step = 3
    total_steps = 10
    global_rank = 0
    world_size = 1
    logged: dict[str, Tensor]

    def __init__(self, model: nn.Module, objective: Objective | None = None, **settings: Any) -> None:
        super().__init__(model, Recipe(objective or Standard(), **settings))

    def log_dict(self, dictionary: dict[str, Any], *arguments: Any, **settings: Any) -> None:
        self.logged = getattr(self, "logged", {}) | dictionary

    def log(self, name: str, value: Any, *arguments: Any, **settings: Any) -> None:
        self.log_dict({name: value})


@dataclass(frozen=True)
class Spy(AdversarialTraining):
    """Adversarial training that notes what the model is in either half of a step."""

    attack: PGD = ATTACK
    gradient: StateGradient | None = field(default_factory=Phantom)
    moments: list[Moment] = field(default_factory=list)
    attacked: list[tuple[Solver, Execution]] = field(default_factory=list)
    learned: list[tuple[Solver, Execution]] = field(default_factory=list)

    def adversaries(self, model: nn.Module, x: Tensor, y: Tensor, moment: Moment) -> Adversaries:
        assert isinstance(model, DEQ)
        self.moments.append(moment)
        self.attacked.append((model.solver, model.execution))
        return super().adversaries(model, x, y, moment)

    def read(self, model: nn.Module, x: Tensor, y: Tensor, found: Adversaries, moment: Moment) -> Reading:
        assert isinstance(model, DEQ)
        self.learned.append((model.solver, model.execution))
        return super().read(model, x, y, found, moment)


def pixels() -> Tensor:
    return 0.2 + 0.6 * torch.rand(4, *IMAGE, generator=torch.Generator().manual_seed(1))


def nano(gradient: StateGradient | None = None, max_steps: int = 3) -> MDEQ:
    torch.manual_seed(1)
    config = replace(rd.models.PRESETS["nano"], max_steps=max_steps, dropout=0.3, image_size=4)
    deq = rd.models.mdeq(config, num_classes=CLASSES, in_channels=1).train()
    deq.solver = replace(deq.solver, tol=0.0)
    deq.gradient = gradient
    return deq


def squares() -> Tensor:
    return torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def weight_gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    named = dict(model.named_parameters())
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


def test_seed_differs_by_step_part_of_the_batch_process_and_run() -> None:
    spy = Spy()
    for at in [(42, 3, 0, 0), (42, 3, 0, 0), (43, 3, 0, 0), (42, 4, 0, 0), (42, 3, 1, 0), (42, 3, 0, 1)]:
        module = Step(make_deq(gradient=Phantom()), spy, schedule=Schedule(seed=at[0]))
        module.global_step, module.global_rank = at[1], at[3]
        module.training_step((pixels(), Y), at[2])
        assert torch.initial_seed() != spy.moments[-1].generator.initial_seed()
    first, again, *others = (moment.generator.initial_seed() for moment in spy.moments)
    assert first == again
    assert len({first, *others}) == 5
    assert [moment.step for moment in spy.moments] == [3, 3, 3, 4, 3, 3]
    assert spy.moments[0].progress == 0.3


@pytest.mark.parametrize("objective", [Standard(), Spy(), TRADES(ATTACK), Spy(NFGSM())], ids=lambda o: type(o).__name__)
def test_seed_decides_a_step(objective: Objective) -> None:
    first, again, other = (Step(nano(Phantom()), objective).training_step((squares(), Y), part) for part in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("cell", ["contractive", "expansive", "bound"])
def test_solver_aligned_training_differentiates_what_is_computed(cell: str) -> None:
    deq = make_deq(cell, Broyden(max_steps=5, tol=0, result="last"), Unroll(2, 0.7), ThroughSolver())
    x = pixels()
    module = Step(deq, AdversarialTraining(ATTACK))
    loss = module.training_step((x, Y), 0)
    found = weight_gradients(deq, loss)

    def naive(images: Tensor) -> Tensor:
        u = deq.injection(images)
        states, _ = dense.broyden(lambda z: deq.cell(z, u), torch.zeros_like(u), 5)
        z = states[-1]
        for _ in range(2):
            z = 0.3 * z + 0.7 * deq.cell(z, u)
        return cross_entropy(deq.head(z), Y, reduction="none")

    generator = torch.Generator().manual_seed(_seed(42, 3, 0, 0))
    start = adversaries = x + 0.1 * (2 * torch.rand(x.shape, generator=generator) - 1)
    for _ in range(ATTACK.steps):
        at = adversaries.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(naive(at).sum(), at)
        adversaries = (adversaries + 0.05 * gradient.sign()).clamp(x - 0.1, x + 0.1).clamp(0, 1)
    assert (adversaries - start).abs().max() > 0.04
    expected = naive(adversaries).mean()
    assert_close(loss, expected)
    assert_close(found, weight_gradients(deq, expected), rtol=1e-6, atol=1e-10)
    for name in ("cell.weight", "injection.1.weight", "head.1.weight"):
        entry = deq.get_parameter(name).data[1, 2]
        difference = dense.parameter_differences(lambda: cross_entropy(deq(adversaries), Y), entry)
        assert_close(found[name][1, 2], difference.detach(), rtol=1e-6, atol=1e-10)


def test_gradient_through_the_solver_holds_with_batch_statistics_and_dropout() -> None:
    for checkpoint in (False, True):
        deq = nano(ThroughSolver(checkpoint=checkpoint))
        module = Step(deq)

        def loss(module: Step = module) -> Tensor:
            return module.training_step((squares(), Y), 0).detach()

        gradients = weight_gradients(deq, module.training_step((squares(), Y), 0))
        assert len({loss().item() for _ in range(3)}) == 1
        for name in ("injection.stem.0.1.weight", "cell.blocks.0.conv2.weight_v", "head.final.0.weight"):
            steepest = torch.unravel_index(gradients[name].abs().argmax(), gradients[name].shape)
            entry = deq.get_parameter(name).data[tuple(int(i) for i in steepest)]
            expected = dense.parameter_differences(loss, entry, h=1e-6)
            assert expected.abs() > 1e-3
            assert_close(gradients[name][steepest], expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (SolverSteps(), Broyden(max_steps=6, tol=1e-3)),
        (SolverSteps([2, 4], [0.0, 0.5]), Broyden(max_steps=2, tol=1e-3)),
        (SolverSteps([2, 4], [0.0, 0.3], asynchronous=True), Broyden(max_steps=4, tol=0.0)),
    ],
    ids=["own", "first phase", "second phase"],
)
@pytest.mark.parametrize("execution", [Execution(), Execution("bfloat16")], ids=["full", "bfloat16"])
def test_model_is_executed_as_the_phase_says_for_the_length_of_a_step(
    settings: SolverSteps, expected: Solver, execution: Execution
) -> None:
    usual = Broyden(max_steps=6, tol=1e-3)
    deq, spy = make_deq(solver=usual, gradient=Phantom()).float(), Spy()
    module = Step(deq, spy, solver_steps=settings, execution=execution, validation=Validation(ATTACK))
    module.training_step((pixels().float(), Y), 0).backward()
    assert spy.attacked == spy.learned == [(expected, execution)]
    assert (deq.solver, deq.execution) == (usual, Execution())


def test_model_is_as_before_after_a_step_that_fails() -> None:
    class Failing(Standard):
        def read(self, *arguments: object) -> Reading:
            raise KeyboardInterrupt

    deq = make_deq(gradient=Phantom())
    usual = deq.solver, deq.tail, deq.gradient, deq.execution
    for step in (0, 5):
        module = Step(
            deq,
            Failing(),
            solver_steps=SolverSteps([2], [0]),
            pretraining=Pretraining(3, adversarial=True),
            execution=Execution("bfloat16"),
        )
        module.global_step = step
        with pytest.raises(KeyboardInterrupt):
            module.training_step((pixels(), Y), 0)
        assert (deq.solver, deq.tail, deq.gradient, deq.execution) == usual


@pytest.mark.parametrize("cell", ["expansive", "own-start", "bound"])
@pytest.mark.parametrize("layers", [1, 4])
def test_pretraining_is_the_cell_unrolled(cell: str, layers: int) -> None:
    deq, x = make_deq(cell, gradient=Phantom()), pixels()
    usual = deq.solver, deq.tail, deq.gradient
    module = Step(deq, pretraining=Pretraining(steps=4, layers=layers), solver_steps=SolverSteps([2], [0]))
    loss = module.training_step((x, Y), 0)
    assert (deq.solver, deq.tail, deq.gradient) == usual
    found = weight_gradients(deq, loss)
    u = deq.injection(x)
    z = torch.sin(2 * u) if cell == "own-start" else torch.zeros_like(u)
    for _ in range(layers):
        z = deq.cell(z, u)
    expected = cross_entropy(deq.head(z), Y)
    assert_close(loss, expected)
    assert_close(found, weight_gradients(deq, expected), rtol=1e-8, atol=1e-12)
    spy = Spy()
    over = Step(deq, spy, pretraining=Pretraining(steps=3, layers=layers))
    over.training_step((x, Y), 0)
    assert spy.learned == [(usual[0], Execution())]


@pytest.mark.parametrize("adversarial", [False, True])
def test_pretraining_adds_nothing_and_sees_clean_images_unless_asked(adversarial: bool) -> None:
    jacobian = JacobianRegularization(0.5, frequency=1.0, until=1.0)
    added = Regularization(jacobian, FixedPointCorrection(0.7))
    spy, pretraining = Spy(), Pretraining(steps=2, layers=3, adversarial=adversarial)
    module = Step(make_deq(gradient=Phantom()), spy, regularization=added, pretraining=pretraining)
    module.global_step = 1
    module.training_step((pixels(), Y), 0)
    assert {"jacobian", "correction"}.isdisjoint(module.logged)
    assert [solver.max_steps for solver, _ in spy.learned] == [3] * adversarial
    module.global_step = 2
    module.training_step((pixels(), Y), 0)
    assert {"jacobian", "correction"} <= set(module.logged)
    assert len(spy.learned) == 1 + adversarial


def test_jitter_of_the_jacobian_penalty_changes_the_solve_of_the_loss_alone() -> None:
    spy, jacobian = Spy(), JacobianRegularization(0.5, frequency=1.0, until=1.0, shorter=1, longer=1)
    module = Step(make_deq(gradient=Phantom()), spy, regularization=Regularization(jacobian))
    for step in range(9):
        module.global_step = step
        module.training_step((pixels(), Y), 0)
        assert module.logged.pop("jacobian") > 0
    assert {solver.max_steps for solver, _ in spy.attacked} == {6}
    assert {solver.max_steps for solver, _ in spy.learned} == {5, 6, 7}


def test_penalties_are_added_with_their_weights_and_logged() -> None:
    deq, x = make_deq("expansive", gradient=Phantom()), pixels()
    jacobian = JacobianRegularization(0.5, frequency=1.0, until=1.0, shorter=0, longer=0)
    correction = FixedPointCorrection(0.7)
    module = Step(deq, regularization=Regularization(jacobian, correction))
    loss = module.training_step((x, Y), 0)
    found, solution = weight_gradients(deq, loss), deq.solution(x)
    torch.manual_seed(torch.initial_seed())
    jacobian_part = 0.5 * jacobian_penalty(solution, jacobian.probes)
    correction_part = correction.penalty(deq, solution, Y)
    expected = cross_entropy(deq(x), Y) + jacobian_part + correction_part
    assert_close(loss, expected)
    assert_close(found, weight_gradients(deq, expected))
    logged = {name: module.logged[name] for name in ("loss", "jacobian", "correction")}
    assert_close(logged, {"loss": loss, "jacobian": jacobian_part, "correction": correction_part}, check_stride=False)
    assert not any(value.requires_grad for value in logged.values())


def test_compiled_model_is_penalised_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    regularization = Regularization(JacobianRegularization(0.5, frequency=1.0, until=1.0))
    steps = []
    for execution in (Execution(), Execution(compiled=True)):
        deq = make_deq(gradient=Phantom())
        module = Step(deq, AdversarialTraining(ATTACK), regularization=regularization, execution=execution)
        loss = module.training_step((pixels(), Y), 0)
        steps.append((loss, weight_gradients(deq, loss)))
    assert_close(*steps, rtol=1e-8, atol=1e-10)


def test_what_a_guard_looks_at_adds_up_over_the_steps() -> None:
    deq, x = make_deq(gradient=Phantom()), pixels()
    module = Step(deq)
    module.training_step((x, Y), 0)
    broken = x.clone()
    broken[1] = torch.nan
    loss = module.training_step((broken, Y), 1)
    assert not loss.isfinite()
    assert module.suspects is not None
    assert module.suspects.tolist() == [1, 1, 8]
    assert module.logged["accuracy"] == correct(deq(broken), Y).double().mean()


@pytest.mark.parametrize("objective", [AdversarialTraining(ATTACK), TRADES(ATTACK)], ids=["at", "trades"])
def test_explicit_network_is_trained_by_autograd(objective: Objective) -> None:
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(6, CLASSES)), pixels()
    regularization = Regularization(JacobianRegularization(1.0, 1.0, 1.0), FixedPointCorrection(1.0))
    module = Step(model, objective, regularization=regularization, solver_steps=SolverSteps([2], [0]))
    loss = module.training_step((x, Y), 0)
    generator = torch.Generator().manual_seed(_seed(42, 3, 0, 0))
    moment = Moment(3, 0.3, generator)
    found = objective.adversaries(model, x, Y, moment)
    assert_close(loss, objective.read(model, x, Y, found, moment).loss)
    assert set(module.logged) == {"loss", "accuracy"}


def test_explicit_network_is_executed_in_the_precision_of_the_recipe() -> None:
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(6, CLASSES)).float(), pixels().float()
    seen: list[torch.dtype] = []
    model.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    module = Step(model, AdversarialTraining(ATTACK), execution=Execution("bfloat16"))
    loss = module.training_step((x, Y), 0)
    assert set(seen) == {torch.bfloat16}
    assert loss.dtype == torch.float32
    module.validation_step((x, Y), 0)
    assert seen[-1] == torch.float32


def test_validation_measures_the_whole_model_in_full_precision() -> None:
    deq, x = nano(Phantom(), max_steps=4), squares()
    validation = Validation(replace(ATTACK, seed=2), ThroughSolver())
    module = Step(
        deq,
        solver_steps=SolverSteps([1], [0]),
        execution=Execution("bfloat16"),
        pretraining=Pretraining(9),
        validation=validation,
    )
    module.validation_step((x, Y), 3)
    assert deq.training
    deq.eval()
    adversaries = replace(ATTACK, seed=5)(Surrogate(deq, ThroughSolver()), x, Y)
    trajectory = deq.solve(x)
    expected = {
        "clean": correct(deq(x), Y).double().mean(),
        "robust": correct(deq(adversaries), Y).double().mean(),
        "diverged": torch.zeros(()),
        "final_residual": trajectory.residuals[-1].mean(),
    }
    assert_close({name: module.logged[name].double() for name in expected}, expected)
    assert not {"spectral_radius", "lipschitz"} & module.logged.keys()
    module.validation_step((x, Y), 0)
    assert module.logged["lipschitz"] >= module.logged["spectral_radius"] > 0


def test_sample_whose_solve_diverges_is_an_error_in_validation() -> None:
    module = Step(diverging(), validation=Validation(PGD(0.0, 0.1, steps=1), None))
    for images, share in ((DIM, 1.0), (BRIGHT, 0.0)):
        module.validation_step((images.double(), CLASS), 1)
        assert {name: float(module.logged[name]) for name in ("clean", "robust")} == {"clean": share, "robust": share}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pretraining(steps=-1), "pretraining has -1 steps"),
        (lambda: Pretraining(layers=0), "0 layers"),
        (
            lambda: Step(make_deq(), AdversarialTraining(warm_steps=2), pretraining=Pretraining(5, adversarial=True)),
            "unrolls the cell from z_0",
        ),
    ],
)
def test_setting_that_cannot_be_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


class WaitingOperations(TorchDispatchMode):
    """Notes the operations for which the host waits for a GPU: those that read a value or take it for a size."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put", "index_put_") else ()
        waiting = ("_local_scalar_dense", "equal", "nonzero", "masked_select", "_unique2", "unique_dim")
        if name in waiting or any(index is not None and index.dtype == torch.bool for index in indices):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


class Uploads(TorchFunctionMode):
    """Notes the calls that copy values from the host, for which it waits too."""

    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor):
            self.seen.append(func.__name__)
        return func(*args, **(kwargs or {}))


def waits(
    objective: Objective, gradient: StateGradient, settings: dict[str, Any], asynchronous: bool = True
) -> list[str]:
    """What would make the host wait for a GPU in a step, from the second batch of an epoch to the weights' gradient."""
    config = replace(rd.models.PRESETS["nano"], max_steps=3, dropout=0.3)
    deq = rd.models.mdeq(config, in_channels=1).float().train()
    deq.gradient = gradient
    train = rd.data.load("digits").require("train").head(16)
    batches = iter(Batches(train, 4, augmentation=RandomCropFlip(1)))
    next(batches)
    module = Step(deq, objective, solver_steps=SolverSteps(asynchronous=asynchronous), **settings)
    with (
        patch.object(Solver, "may_sync", lambda solver, z: solver.tol > 0),
        WaitingOperations() as mode,
        Uploads(mode.seen),
    ):
        module.training_step(next(batches), 0).backward()
    return mode.seen


@pytest.mark.parametrize("gradient", [Phantom(), ThroughSolver(), ThroughSolver(checkpoint=True)], ids=repr)
@pytest.mark.parametrize(
    ("objective", "settings"),
    [
        (AdversarialTraining(ATTACK), {"execution": Execution("bfloat16")}),
        (TRADES(replace(ATTACK, norm="L2"), warmup=0.5), {}),
        (
            AdversarialTraining(NFGSM(), warm_steps=2),
            {"regularization": CORRECTED},
        ),
    ],
    ids=["bfloat16", "trades", "warm"],
)
def test_asynchronous_step_never_makes_the_host_wait(
    objective: Objective, settings: dict[str, Any], gradient: StateGradient
) -> None:
    assert waits(objective, gradient, settings) == []


def test_host_waits_for_a_tolerance_and_for_values_it_sends() -> None:
    assert "_local_scalar_dense" in waits(AdversarialTraining(ATTACK), Phantom(), {}, asynchronous=False)
    seen: list[str] = []
    with Uploads(seen):
        torch.zeros(1).new_tensor(2.0)
    assert seen == ["new_tensor"]
