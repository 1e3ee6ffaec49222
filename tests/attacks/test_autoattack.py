"""AutoAttack is its authors' own, and decides on the model that counts."""

import dataclasses
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.resources import files
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pyautoattack
import pytest
import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from torch import Tensor, nn
from torch.testing import assert_close

import robustdeq as rd
from cells import ConvolutionCell
from robustdeq import InputError
from robustdeq.attacks import APGD, FAB, AutoAttack, Component, Square, TargetedAPGD, TargetedFAB
from robustdeq.attacks.autoattack import Cascade
from robustdeq.attacks.losses import correct
from robustdeq.deq.defenses import EnsembleState, FinalState
from robustdeq.deq.model import DEQ
from robustdeq.gradients import (
    Defended,
    Gradient,
    Phantom,
    SimultaneousAdjoint,
    Surrogate,
    ThroughSolver,
)
from robustdeq.solvers import Broyden

CLASSES = 5
EPS = {"Linf": 0.02, "L2": 0.12, "L1": 0.6}
ORDERS = {"Linf": torch.inf, "L2": 2, "L1": 1}
norms = pytest.mark.parametrize("norm", list(EPS))
PARQUET = Path(__file__).parents[3] / "shared" / "data" / "cifar10" / "test-exact.parquet"
EXAMPLES = Path(str(files("pyautoattack"))) / "examples"


def network(classes: int = CLASSES, seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(seed)
    layers = (nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(192, classes))
    model = nn.Sequential(*layers).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model.to(dtype)


def pixels(model: nn.Module, n: int = 16, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Images and what the model makes of them, one of them mislabelled."""
    x = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.no_grad():
        logits = model(x)
    y = logits.argmax(dim=1)
    y[0] = logits[0].argmin()
    return x, y


def small(norm: str = "Linf") -> dict[str, Component]:
    """The standard ensemble with a small budget."""
    cheap: dict[str, dict[str, int]] = {
        "apgd-ce": {"steps": 4},
        "apgd-t": {"steps": 4, "targets": 2},
        "fab-t": {"steps": 4, "targets": 2},
        "square": {"queries": 20},
    }
    components = AutoAttack(EPS[norm], norm).components
    return {name: replace(component, **cheap[name]) for name, component in components.items()}


@contextmanager
def traced() -> Iterator[None]:
    """The library ends all tracing of the interpreter when it is run directly."""
    before = sys.gettrace()
    yield
    sys.settrace(before)


def cascade(components: dict[str, Component]) -> Cascade:
    return Cascade(tuple(components.values()))


def run_directly(components: dict[str, Component], model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The library's own ensemble on the same components."""
    first = next(iter(components.values()))
    suite: Any = pyautoattack.AutoAttack(model, eps=first.eps, norm=first.norm, seed=first.seed)
    classes = model(x[:1]).shape[1]
    for name, attribute in {"apgd-ce": "apgd", "apgd-t": "apgd_targeted", "fab-t": "fab", "square": "square"}.items():
        setattr(suite, attribute, components[name].build(model, classes, 1.0))
    with traced():
        adversaries, _ = suite.run_standard_evaluation(x, y)
    return adversaries


def widened(norm: str) -> dict[str, bool]:
    """As AutoAttack has it."""
    return {"widened": True} if norm == "L1" else {}


@norms
@pytest.mark.parametrize("name", ["apgd-ce", "apgd-t", "fab-t", "square"])
def test_what_becomes_of_an_image_does_not_depend_on_the_others(name: str, norm: str) -> None:
    model, component = network(dtype=torch.float64), replace(small(norm)[name], eps=4 * EPS[norm])
    if isinstance(component, APGD | TargetedAPGD):
        component = replace(component, restarts=2, steps=10, **widened(norm))
    x, y = pixels(model, dtype=torch.float64)
    together = component(model, x, y)
    order = torch.tensor([9, 0, 3, 12])
    assert_close(together[order], component(model, x[order], y[order]), rtol=0, atol=1e-4)
    assert (together != x).flatten(1).any(dim=1).sum() > 2


@norms
@pytest.mark.parametrize("kind", [APGD, TargetedAPGD])
def test_runs_start_where_those_of_the_authors_do_on_one_image(kind: type[APGD | TargetedAPGD], norm: str) -> None:
    model, eps, restarts = network(), 4 * EPS[norm], 1 if norm == "L1" else 3
    x, y = (image[3:4] for image in pixels(model))
    theirs = {APGD: APGDAttack, TargetedAPGD: APGDAttack_targeted}[kind](
        model, n_iter=6, norm=norm, n_restarts=restarts, eps=eps, use_largereps=norm == "L1", device="cpu"
    )
    ours = kind(eps, norm, steps=6, restarts=restarts, **widened(norm))
    assert_close(ours(model, x, y), theirs.perturb(x, y), rtol=0, atol=1e-6)


@norms
def test_ensemble_is_that_of_its_authors(norm: str) -> None:
    model, components = network(), small(norm)
    x, y = pixels(model)
    theirs = run_directly(components, model, x, y)
    ours = cascade(components)(model, x, y)
    assert torch.equal(ours, components["square"].threat.project(theirs, x))
    assert (ours - theirs).abs().max() < 1e-7
    with torch.no_grad():
        assert torch.equal(correct(model(ours), y), correct(model(theirs), y))
        assert 2 < correct(model(ours), y).sum() < 14


@pytest.mark.parametrize("version", ["standard", "plus"])
@norms
def test_settings_are_those_of_the_authors(version: str, norm: str) -> None:
    model, attack = network(), AutoAttack(0.1, norm, version=version, seed=3)
    suite: Any = pyautoattack.AutoAttack(model, eps=0.1, norm=norm, version=version, seed=3)
    assert list(attack.components) == suite.attacks_to_run
    theirs = {
        "apgd-ce": suite.apgd,
        "apgd-dlr": suite.apgd,
        "apgd-t": suite.apgd_targeted,
        "fab": suite.fab,
        "fab-t": suite.fab,
        "square": suite.square,
    }
    set_while_it_runs = {"loss", "targeted"} | ({"n_restarts"} if version == "plus" else set())
    for name, component in attack.components.items():
        ignored = {"model", "predict", "logger", "device"}
        ignored |= set_while_it_runs if name in ("apgd-dlr", "fab-t") else set()
        ours, peer = (
            {key: value for key, value in vars(made).items() if key not in ignored}
            for made in (component.build(model, 10, 1.0), theirs[name])
        )
        assert ours == peer
    if version == "plus":
        restarts = {name: component.restarts for name, component in attack.components.items()}  # pyright: ignore
        assert restarts == {"apgd-ce": 5, "apgd-dlr": 5, "fab": 5, "square": 1, "apgd-t": 1, "fab-t": 1}


def components(norm: str) -> list[Component]:
    eps = EPS[norm]
    return [
        *small(norm).values(),
        APGD(eps, norm, loss="dlr", steps=5, restarts=2),
        FAB(eps, norm, steps=4, restarts=2),
    ]


ALL = [component for norm in EPS for component in components(norm)]


@pytest.mark.parametrize("component", ALL, ids=lambda c: f"{c.label}-{c.norm}")
def test_component_fools_within_the_ball_and_leaves_the_rest(component: Component) -> None:
    model = network()
    x, y = pixels(model)
    before = torch.get_rng_state()
    found = component(model, x, y)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.no_grad():
        standing = correct(model(found), y)
    kept = (found == x).flatten(1).all(dim=1)
    assert kept[0]
    assert torch.equal(kept[1:], standing[1:])
    assert 0 < standing.sum() < 15
    order = ORDERS[str(component.norm)]
    assert torch.linalg.vector_norm((found - x).flatten(1), ord=order, dim=1).max() <= component.eps * (1 + 1e-5)
    assert 0 <= found.min() < found.max() <= 1
    assert torch.equal(found, component(model, x, y))
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("component", ALL, ids=lambda c: f"{c.label}-{c.norm}")
def test_batches_of_one_of_the_misclassified_and_of_double_precision(component: Component) -> None:
    model, double = network(), network(dtype=torch.float64)
    x, y = pixels(model)
    together = component(model, x.double().float(), y)
    fallen = int((together != x).flatten(1).any(dim=1).nonzero()[0])
    one = slice(fallen, fallen + 1)
    for start in (x[one], x[one].to(memory_format=torch.channels_last)):
        assert component(model, start, y[one]).shape == (1, 1, 8, 8)
    assert torch.equal(component(model, x[:1], y[:1]), x[:1])
    wide = x.double() + 1e-10 * torch.rand(x.shape, dtype=torch.float64)
    found = component(double, wide.clamp(0, 1), y)
    assert found.dtype == torch.float64
    assert torch.equal(found[0], wide.clamp(0, 1)[0])
    with torch.no_grad():
        assert (~correct(double(found), y)).sum() > 1
    order = ORDERS[str(component.norm)]
    moved = torch.linalg.vector_norm((found - wide.clamp(0, 1)).flatten(1), ord=order, dim=1)
    assert moved.max() <= component.eps * (1 + 1e-12)


@norms
def test_vectors_are_attacked_by_all_but_square(norm: str) -> None:
    flat = nn.Sequential(nn.Unflatten(1, (1, 8, 8)), network()).eval()
    x, y = pixels(network())
    names = ("apgd-ce", "apgd-t", "fab-t")
    chosen = {name: small(norm)[name] for name in names}
    found = cascade(chosen)(flat, x.flatten(1), y)
    assert torch.equal(found.view_as(x), cascade(chosen)(network(), x, y))
    with pytest.raises(InputError, match=r"x has shape \(16, 64\) and square needs images \(B, C, H, W\)"):
        AutoAttack(norm=norm)(flat, x.flatten(1), y)


@pytest.mark.parametrize("attack", [TargetedAPGD(1e-4, targets=9, steps=1), TargetedFAB(1e-4, targets=9, steps=1)])
def test_no_more_classes_are_tried_than_there_are(attack: TargetedAPGD | TargetedFAB) -> None:
    model = network()
    x, y = pixels(model, 2)
    assert torch.equal(attack(model, x, y), replace(attack, targets=4)(model, x, y))


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_few_classes_leave_out_what_needs_more(classes: int) -> None:
    model = network(classes)
    x, y = pixels(model, 8)
    for component in components("Linf"):
        least = {"apgd-t": 4, "apgd-dlr": 3}.get(component.label, 2)
        if classes >= least:
            assert (replace(component, eps=0.3)(model, x, y) != x).any()
        else:
            with pytest.raises(InputError, match=rf"needs {least} classes and the model has {classes}"):
                component(model, x, y)
    if classes < 4:
        reported: list[str] = []
        with pytest.raises(InputError, match="apgd-t needs 4 classes"):
            AutoAttack(0.02)(model, x, y, report=lambda share, what: reported.append(what))
        assert reported == []


@pytest.mark.parametrize("norm", ["L2", "L1"])
def test_square_either_runs_or_says_why_not(norm: str) -> None:
    refused = 0
    for height in (3, 4, 5, 8, 9, 10, 12, 13, 14, 15):
        for width in (4, 8, 15):
            torch.manual_seed(0)
            model = nn.Sequential(nn.Flatten(), nn.Linear(height * width, 3)).eval()
            x = torch.rand(2, 1, height, width)
            attack = Square(1e-4, norm, queries=2)
            build = attack.build(model, 3, 1.0)
            try:
                build.perturb(x, model(x).argmax(dim=1))
            except (RuntimeError, ZeroDivisionError):
                refused += 1
                with pytest.raises(InputError, match=f"cannot tile images of {height} × {width} pixels"):
                    attack(model, x, model(x).argmax(dim=1))
            else:
                attack(model, x, model(x).argmax(dim=1))
    assert refused > 5


@pytest.mark.parametrize("component", ALL, ids=lambda c: f"{c.label}-{c.norm}")
@pytest.mark.parametrize("bounds", [(0.0, 4.0), (-1.0, 3.0)])
def test_images_within_other_bounds_are_attacked_within_them(component: Component, bounds: tuple[float, float]) -> None:
    low, high = bounds

    class Scaled(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            return self.model((x - low) / (high - low))

    model = network()
    x, y = pixels(model)
    x = (x * 256).round() / 256
    y[1:] = model(x[1:]).argmax(dim=1)
    scaled = replace(component, eps=component.eps * (high - low), bounds=bounds)
    far = low + (high - low) * x
    found = scaled(Scaled(model).eval(), far, y)
    scaled.threat.check_adversaries(found, far)
    assert_close((found - low) / (high - low), component(model, x, y), rtol=0, atol=1e-6)
    assert (found.min() < 0) == (low < 0)
    assert found.max() > 1


@pytest.fixture(scope="module")
def deq() -> DEQ:
    torch.manual_seed(0)
    head = nn.Sequential(nn.Flatten(), nn.Linear(128, CLASSES))
    model = DEQ(nn.Conv2d(1, 2, 3, padding=1), ConvolutionCell(1.0), head, Broyden(max_steps=4, tol=0)).eval()
    with torch.no_grad():
        for module in (model.injection, model.head[1]):
            module.weight.mul_(3)
    return model


@pytest.mark.parametrize("gradient", [Phantom(3), SimultaneousAdjoint(3), ThroughSolver()], ids=repr)
def test_every_gradient_serves_every_component(gradient: Gradient, deq: DEQ) -> None:
    surrogate, target = Surrogate(deq, gradient), Defended(deq, EnsembleState())
    x, y = pixels(target, 4)
    for component in components("Linf"):
        few: dict[str, int] = {"queries": 4} if component.label == "square" else {"steps": 2, "restarts": 1}
        found = replace(component, eps=0.3, **few)(surrogate, x, y, target)
        assert (~correct(target(found), y)).sum() > 1


def test_success_is_judged_on_the_target_or_the_surrogate(deq: DEQ, monkeypatch: pytest.MonkeyPatch) -> None:
    surrogate, target = Surrogate(deq, SimultaneousAdjoint(2)), Defended(deq, FinalState())
    x, y = pixels(target, 40)
    right = correct(target(x), y) & correct(surrogate(x), y)
    x, y = x[right], y[right]
    monkeypatch.setattr(AutoAttack, "components", {"apgd-ce": APGD(EPS["Linf"], steps=4)})
    judged, alone, ignoring = (
        AutoAttack(judge=judge)(surrogate, x, y, target if seen else None)
        for judge, seen in (("target", True), ("target", False), ("surrogate", True))
    )
    assert torch.equal(alone, ignoring)
    for found, decides, other in ((judged, target, surrogate), (alone, surrogate, target)):
        moved = (found != x).flatten(1).any(dim=1)
        assert torch.equal(moved, ~correct(decides(found), y))
        assert not torch.equal(moved, ~correct(other(found), y))
    assert correct(target(judged), y).sum() < correct(target(alone), y).sum()
    assert correct(surrogate(alone), y).sum() < correct(surrogate(judged), y).sum()


def test_cascade_attacks_who_is_left_and_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    x, y = pixels(model)
    seen: list[int] = []
    original = Component.search

    def watched(self: Component, surrogate: nn.Module, judge: nn.Module, x: Tensor, *rest: Any) -> Tensor:
        seen.append(len(x))
        return original(self, surrogate, judge, x, *rest)

    monkeypatch.setattr(Component, "search", watched)
    reports: list[tuple[float, str]] = []
    found = cascade(small())(model, x, y, report=lambda share, what: reports.append((share, what)))
    assert reports == [(0, "apgd-ce"), (0.25, "apgd-t"), (0.5, "fab-t"), (0.75, "square"), (1, "done")]
    assert seen[0] == 15
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] < 15
    seen.clear()
    strong = {name: replace(component, eps=1.0) for name, component in small().items()}
    assert (model(cascade(strong)(model, x, y)).argmax(dim=1) != y).all()
    assert len(seen) < 4
    assert torch.equal(found[0], x[0])


def test_attacks_of_ones_choice_run_with_one_seed_and_say_what_they_cost() -> None:
    model = network()
    x, y = pixels(model)
    chosen = tuple(small().values())
    attack = Cascade(chosen, seed=3)
    expected = Cascade(tuple(replace(c, seed=3) for c in chosen), seed=3)(model, x, y)
    assert torch.equal(attack(model, x, y), expected)
    assert attack.cost.gradients == sum(component.cost.gradients for component in chosen)
    assert attack.cost.queries == sum(component.cost.queries + 1 for component in chosen)
    standard = AutoAttack(EPS["Linf"])
    whole = Cascade(tuple(standard.components.values()))
    assert whole.cost == standard.cost
    for none_or_twice in ((), (chosen[0], chosen[0])):
        with pytest.raises(InputError, match="give at least one, and none of them twice"):
            Cascade(none_or_twice)


class Diverging(nn.Module):
    """A model without an answer wherever its input has moved, right everywhere else."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        super().__init__()
        self.images, self.labels = x, y

    def forward(self, x: Tensor) -> Tensor:
        distances, nearest = torch.cdist(x.flatten(1), self.images.flatten(1)).min(dim=1)
        logits = nn.functional.one_hot(self.labels[nearest], CLASSES).to(x) + 0 * x.sum()
        return logits.masked_fill((distances > 1e-2)[:, None], torch.nan)


@pytest.mark.parametrize(
    "component", [APGD(0.1, steps=3), TargetedAPGD(0.1, steps=3), Square(0.1, queries=5)], ids=repr
)
def test_solve_that_diverges_is_a_success_whatever_the_label(component: Component) -> None:
    x, y = torch.rand(CLASSES, 1, 8, 8), torch.arange(CLASSES)
    target = Diverging(x, y).eval()
    assert correct(target(x), y).all()
    found = component(network(), x, y, target)
    assert found.isfinite().all()
    assert not correct(target(found), y).any()


def test_nothing_of_the_library_reaches_the_user(capfd: pytest.CaptureFixture[str]) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES), nn.Hardtanh(-1e-3, 1e-3)).eval()
    x, y = pixels(model, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cascade(small())(model, x, y)
    assert capfd.readouterr() == ("", "")


def test_default_precision_of_the_program_does_not_matter() -> None:
    model = network()
    x, y = pixels(model, 6)
    expected = cascade(small("L2"))(model, x, y)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(cascade(small("L2"))(model, x, y), expected)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("component", [*components("Linf"), components("L1")[0]], ids=lambda c: f"{c.label}-{c.norm}")
def test_budget_is_no_less_than_what_is_used(component: Component) -> None:
    class Counted(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model, self.gradients, self.passes = model, 0, 0

        def forward(self, x: Tensor) -> Tensor:
            if torch.is_grad_enabled() and x.requires_grad:
                self.gradients += 1
            else:
                self.passes += 1
            return self.model(x)

    model = Counted(network()).eval()
    x, y = pixels(model.model, 3)
    weak: Any = replace(component, eps=1e-4)
    model.gradients = model.passes = 0
    weak(model, x, y)
    assert model.gradients == weak.cost.gradients
    assert model.passes == weak.cost.queries


def test_budget_of_the_ensemble_is_that_of_its_components() -> None:
    attack = AutoAttack()
    assert attack.cost.gradients == 101 + 9 * 101 + 9 * 100
    assert attack.cost.queries >= 9 * 100 + 5000


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AutoAttack(eps=-1), "eps is -1"),
        (lambda: AutoAttack(norm="L7"), "norm is 'L7'"),
        (lambda: AutoAttack(version="rand"), "version is 'rand'; choose one of 'standard', 'plus', 'custom'"),
        (lambda: AutoAttack(judge="me"), "judge is 'me'; choose one of 'target', 'surrogate'"),
        (lambda: AutoAttack(version="custom"), "name the attacks for 'custom'"),
        (lambda: AutoAttack(attacks=("square",)), "and for no other version"),
        (lambda: AutoAttack(version="custom", attacks=()), "choose at least one of 'apgd-ce'"),
        (lambda: AutoAttack(version="custom", attacks=("pgd",)), r"attacks is \('pgd',\); choose"),
        (lambda: APGD(widened=True), "widened needs the norm L1 and 2 steps, and the attack has Linf and 100"),
        (lambda: TargetedAPGD(norm="L1", steps=1, widened=True), "widened needs the norm L1 and 2 steps"),
        (lambda: Cascade((APGD(0.1), Square(0.2))), "the attacks differ in eps, norm or bounds"),
        (lambda: APGD(loss="mse"), "loss is 'mse'; choose one of 'ce', 'dlr'"),
        (lambda: APGD(steps=0), "steps is 0; give 1 or more"),
        (lambda: TargetedAPGD(targets=0), "targets is 0; give 1 or more"),
        (lambda: FAB(restarts=0), "restarts is 0; give 1 or more"),
        (lambda: TargetedFAB(targets=0), "targets is 0; give 1 or more"),
        (lambda: Square(queries=0), "queries is 0; give 1 or more"),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_input_that_cannot_be_used_is_refused() -> None:
    model = network()
    x, y = pixels(model)
    for attack in (AutoAttack(), APGD()):
        with pytest.raises(InputError, match="y has labels from 0 to 5, and the model has classes 0 to 4"):
            attack(model, x, torch.arange(16) % 6)
        with pytest.raises(InputError, match="x has pixels from"):
            attack(model, x * 255, y)
    with pytest.warns(UserWarning, match="in training mode"):
        APGD(1e-3, steps=1)(network().train(), x, y)


def test_configurations_are_frozen_and_can_be_seeded() -> None:
    custom = AutoAttack(version="custom", attacks=("square", "apgd-ce"), seed=1)
    assert list(custom.components) == ["square", "apgd-ce"]
    assert replace(custom, seed=7).components["square"] == Square(seed=7)
    with pytest.raises(dataclasses.FrozenInstanceError):
        custom.seed = 3  # pyright: ignore[reportAttributeAccessIssue]


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    """The CIFAR-10 ResNet-18 that comes with the authors' code."""
    weights = EXAMPLES / "model_test.pt"
    spec = spec_from_file_location("resnet", EXAMPLES / "resnet.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.ResNet18()
    model.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    return model.eval().requires_grad_(False)


def test_trained_network_falls_as_it_does_to_the_authors(resnet: nn.Module) -> None:
    if PARQUET.is_file():
        x, y = rd.data.load(PARQUET).require("test").head(2).tensors()
        assert torch.equal(resnet(x).argmax(dim=1), y)
    else:
        x = torch.rand(2, 3, 32, 32)
        y = resnet(x).argmax(dim=1)
    chosen = {
        name: replace(component, eps=0.5 / 255, **({"queries": 2} if name == "square" else {"steps": 1}))
        for name, component in AutoAttack().components.items()
    }
    chosen |= {name: replace(chosen[name], targets=1) for name in ("apgd-t", "fab-t")}  # pyright: ignore
    ours = cascade(chosen)(resnet, x, y)
    assert (ours - run_directly(chosen, resnet, x, y)).abs().max() <= 6e-8
