"""A recipe file says which model is trained, on what and how; what it cannot mean ends in one sentence."""

from pathlib import Path, PurePosixPath

import pytest
import torch

from robustdeq.base.errors import InputError
from robustdeq.data import Images, load
from robustdeq.defenses import FinalState
from robustdeq.gradients import Exact, Phantom, ThroughSolver
from robustdeq.models import MDEQ, ResNet, Unroll, WideResNet
from robustdeq.recipes import recipe_names
from robustdeq.training import AdversarialTraining, LipschitzMargin, NoiseAugmentation, Standard
from robustdeq.training.plan import Plan, read_plan

SOLVES = {"large-pgdat-exact-8-7": (8, 7), "large-pgdat-exact-18-20": (18, 20), "large-pgdat-exact-50-50": (50, 50)}


@pytest.mark.parametrize("name", recipe_names())
def test_every_packaged_recipe_is_read(name: str) -> None:
    plan = read_plan(name)
    assert plan.data == ("digits" if "nano" in name or "digits" in name else "cifar10")
    others = {"large-standard": Standard, "conv-digits-noise": NoiseAugmentation, "monotone-small": LipschitzMargin}
    assert isinstance(plan.recipe.objective, others.get(name, AdversarialTraining))
    assert isinstance(plan.gradient, ThroughSolver) == ("aligned" in name or "noise" in name)
    if isinstance(plan.gradient, ThroughSolver):
        assert plan.gradient.defense == FinalState()


def test_recipe_makes_no_class_where_a_plain_value_stands(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(
        "base: conv-digits-unrolled\narchitecture: {pooled: {class_path: pathlib.PurePosixPath}}\n"
    )
    assert not isinstance(read_plan(str(tmp_path / "own.yaml")).architecture["pooled"], PurePosixPath)


@pytest.mark.parametrize("name", SOLVES)
def test_published_exact_training_has_its_solver_steps_and_no_tail(name: str) -> None:
    plan = read_plan(name)
    (forward, backward), seen = SOLVES[name], images()
    assert plan.gradient == Exact(max_steps=backward, tol=1e-3)
    with torch.device("meta"):
        deq = plan.build(seen)
    assert isinstance(deq, MDEQ)
    assert (deq.solver.max_steps, deq.tail.steps, deq.gradient) == (forward, 0, plan.gradient)


def images() -> Images:
    return load("digits").require("train")


def test_own_file_is_read_and_its_model_fits_the_images(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("model: nano\narchitecture: {max_steps: 4}\nschedule: {epochs: 3}\n")
    plan = read_plan(str(file))
    assert (plan.recipe.schedule.epochs, plan.gradient) == (3, Phantom(steps=5, damping=0.5))
    deq = plan.build(images())
    assert isinstance(deq, MDEQ)
    assert (deq.image_shape, deq.solver.max_steps) == ((1, 8, 8), 4)
    assert deq(images().head(2).tensors()[0]).shape == (2, 10)
    assert isinstance(deq.tail, Unroll)


def test_lists_of_a_file_serve_as_settings_of_the_architecture(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("model: nano\narchitecture: {channels: [8, 8], groups: 1}\n")
    deq = read_plan(str(file)).build(images())
    assert isinstance(deq, MDEQ)
    assert deq.config.channels == (8, 8)


def test_recipe_holds_only_what_differs_from_its_base(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        "model: nano\nschedule: {epochs: 3, seed: 5}\n"
        "gradient: {class_path: Phantom, init_args: {steps: 2, damping: 0.5}}\n"
    )
    own = tmp_path / "own.yaml"
    own.write_text(
        f"base: {tmp_path / 'base.yaml'}\nschedule: {{epochs: 4}}\ngradient: {{class_path: ThroughSolver}}\n"
    )
    plan = read_plan(str(own))
    assert (plan.model, plan.recipe.schedule.epochs, plan.recipe.schedule.seed) == ("nano", 4, 5)
    assert isinstance(plan.gradient, ThroughSolver)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: huge", "there is no recipe 'huge'"),
        ("base: {own}", "builds on itself; give it another base."),
        ("- 1", "holds no settings; write lines such as `model: small`."),
        ("a: [", r"own\.yaml is no YAML \("),
    ],
)
def test_recipe_without_settings_ends_in_one_sentence(text: str, message: str, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(text.format(own=own))
    with pytest.raises(InputError, match=message):
        read_plan(str(own))


@pytest.mark.parametrize(("name", "kind"), [("resnet18", ResNet), ("wrn34-10", WideResNet)])
def test_explicit_networks_are_built_as_asked(name: str, kind: type) -> None:
    small = {"width": 4, "blocks": (1,)} if kind is ResNet else {"depth": 10, "widening": 1}
    network = Plan(name, small).build(images())
    assert isinstance(network, kind)
    assert network(images().head(2).tensors()[0]).shape == (2, 10)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan("huge"), "there is no model 'huge'; choose one of nano, "),
        (Plan("nano", {"max_step": 3}), "the architecture of nano has no 'max_step'; did you mean max_steps?"),
        (Plan("nano", {"channels": 16}), "channels of nano is 16; give tuple[int, ...]."),
        (Plan("conv-digits", {"channels": "abc"}), "channels of conv-digits is 'abc'; give int."),
        (Plan("conv-digits", {"channels": [1]}), "channels of conv-digits is [1]; give int."),
        (Plan("conv-digits", {"max_steps": 8.5}), "max_steps of conv-digits is 8.5; give int."),
        (Plan("conv-digits", {"tol": None}), "tol of conv-digits is None; give float."),
        (Plan("conv-digits", {"image_size": [8]}), "image_size of conv-digits is [8]; give int | tuple[int, int]."),
        (Plan("nano", {"colour": 3}), "the architecture of nano has no 'colour'; choose one of channels, "),
    ],
)
def test_impossible_model_ends_in_one_sentence(plan: Plan, message: str) -> None:
    with pytest.raises(InputError) as refused:
        plan.build(images())
    assert str(refused.value).startswith(message)
