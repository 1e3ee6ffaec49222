"""How f is evaluated: in bfloat16 nothing but f is, and compiled it is the same f."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

import robustdeq as rd
from cells import TanhCell, images, make_deq
from robustdeq.base.errors import InputError
from robustdeq.deq.cell import Execution, bind
from robustdeq.deq.modes import evaluating
from robustdeq.deq.tail import Unroll
from robustdeq.gradients import Exact, Phantom, StateGradient, ThroughSolver
from robustdeq.models import DEQ, MDEQ
from robustdeq.solvers import Broyden, Picard

BFLOAT16 = Execution("bfloat16")
Y = torch.arange(3)


def nano(dropout: float = 0.0) -> MDEQ:
    config = replace(rd.models.PRESETS["nano"], max_steps=2, dropout=dropout, image_size=4)
    return rd.models.mdeq(config, num_classes=3, in_channels=1)


def squares() -> Tensor:
    return torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def weight_gradient(deq: DEQ, x: Tensor) -> tuple[Tensor, Tensor]:
    """The logits, and the gradient of their loss with respect to all weights, in one vector."""
    logits = deq(x)
    gradients = torch.autograd.grad(cross_entropy(logits, Y), list(deq.parameters()))
    assert {gradient.dtype for gradient in gradients} == {torch.float32}
    return logits, torch.cat([gradient.flatten() for gradient in gradients])


@pytest.mark.parametrize("gradient", [Phantom(), Exact(), ThroughSolver(), ThroughSolver(checkpoint=True)], ids=repr)
def test_bfloat16_touches_the_evaluation_of_f_alone(gradient: StateGradient) -> None:
    deq, x = nano().train(), squares()
    deq.gradient, deq.execution = gradient, BFLOAT16
    seen: dict[str, set[torch.dtype]] = {}
    for name, module in deq.named_modules():
        if not list(module.children()):
            note = partial(lambda name, module, inputs, output: seen.setdefault(name, set()).add(output.dtype), name)
            module.register_forward_hook(note)
    logits = deq(x)
    cross_entropy(logits, Y).backward()
    assert {parameter.grad.dtype for parameter in deq.parameters() if parameter.grad is not None} == {torch.float32}
    assert seen["cell.blocks.0.conv1"] == seen["cell.projections.1.conv"] == {torch.bfloat16}
    outside = {dtype for name, dtypes in seen.items() if not name.startswith("cell") for dtype in dtypes}
    assert outside == {logits.dtype} == {torch.float32}
    t = deq.solve(x)
    assert {part.dtype for part in (t.initial, t.increments, t.states, t.residuals, t.best_value, t.final)} == {
        torch.float32
    }
    assert gradient.input_gradient(deq, x, lambda logits: logits.square().sum(1)).dtype == torch.float32
    streamed = [seen.state for seen in deq.solution(x).states(range(1, deq.last_state + 1))]
    assert_close(torch.stack(streamed), torch.cat([t.states, t.final[None]]), rtol=0, atol=0)


def test_logits_in_bfloat16_are_as_close_as_the_contraction_lets_the_rounding_of_f_grow() -> None:
    """A weight, a state and their product are rounded: δ ≤ 3 · 2⁻⁸ |W| |z|, and |z̃ − z*| ≤ δ / (1 − ‖W‖)."""
    deq, x = make_deq("contractive", Picard(max_steps=40, tol=0.0, result="last")), images()
    weight, head = deq.cell.weight, deq.head[1].weight
    with torch.no_grad():
        full, z = deq(x), deq.solve(x).final
        deq.execution = BFLOAT16
        rounded = (3 * 2**-8 * z.abs() @ weight.abs().T).norm(dim=1)
        allowed = 1.01 * torch.linalg.matrix_norm(head, ord=2) * rounded / (1 - 0.7)
        difference = (deq(x) - full).norm(dim=1)
    assert (difference > 0).all()
    assert (difference < allowed).all()
    assert (difference < 2**-8 * full.norm(dim=1)).all()


@pytest.mark.parametrize(
    "gradient", [Phantom(), Exact(20, 1e-4), ThroughSolver(), ThroughSolver(checkpoint=True)], ids=repr
)
def test_gradients_in_bfloat16_point_the_same_way(gradient: StateGradient) -> None:
    deq, x = make_deq("contractive", Broyden(max_steps=8, tol=0), Unroll(2, 0.5), gradient), images()
    _, full = weight_gradient(deq, x)
    deq.execution = BFLOAT16
    _, rounded = weight_gradient(deq, x)
    assert not torch.equal(rounded, full)
    assert torch.cosine_similarity(full, rounded, dim=0) > 0.9999


def test_full_precision_is_f_itself() -> None:
    bound = bind(TanhCell(0.5), torch.zeros(2, 7))
    assert Execution().of(bound) is bound
    assert BFLOAT16.of(bound).tensors is bound.tensors
    with pytest.raises(InputError, match="precision is 'half'; choose one of 'full', 'bfloat16'"):
        Execution("half")


def test_what_autocast_leaves_alone_is_refused_in_one_sentence() -> None:
    deq = make_deq().double()
    deq.execution = BFLOAT16
    with pytest.raises(InputError, match=r"halves torch\.float32 alone, and the model is in torch\.float64"):
        deq(images().double())


@pytest.fixture
def compiled_without_a_compiler(monkeypatch: pytest.MonkeyPatch, unchecked: None) -> None:
    """`torch.compile` up to the graphs of both passes, which need no C++ compiler to run; checks of shapes are off."""
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


@pytest.mark.usefixtures("compiled_without_a_compiler")
def test_compiled_f_leaves_the_settings_of_torch_alone() -> None:
    usual = torch._functorch.config.donated_buffer
    weight_gradient(make_deq(gradient=Exact(3, 1e-3)).with_settings(execution=Execution(compiled=True)), images())
    assert torch._functorch.config.donated_buffer == usual


@pytest.mark.usefixtures("compiled_without_a_compiler")
def test_compiled_f_is_the_same_and_compiled_once() -> None:
    deq, x = nano(dropout=0.3).train(), squares()
    graphs = torch._dynamo.utils.counters["stats"]

    def read(gradient: StateGradient, execution: Execution, x: Tensor) -> tuple[Tensor, Tensor]:
        deq.gradient, deq.execution = gradient, execution
        torch.manual_seed(0)
        return weight_gradient(deq, x)

    gradients = [Phantom(2, 0.5), Exact(3, 1e-3), ThroughSolver(), ThroughSolver(checkpoint=True)]
    for gradient in gradients:
        assert_close(read(gradient, Execution(compiled=True), x), read(gradient, Execution(), x), rtol=1e-4, atol=1e-6)
    before = graphs["unique_graphs"]
    assert before > 0
    for gradient in gradients:
        read(gradient, Execution(compiled=True), x.flip(0))
    assert graphs["unique_graphs"] == before


def test_evaluating_restores_what_was_in_training_and_what_needed_a_gradient() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.BatchNorm1d(2)).train()
    model[1].eval()
    model[2].weight.requires_grad_(False)
    with pytest.raises(KeyError), evaluating(model):
        assert not any(part.training for part in model.modules())
        assert not any(parameter.requires_grad for parameter in model.parameters())
        raise KeyError
    assert [part.training for part in model.modules()] == [True, True, False, True]
    assert [parameter.requires_grad for parameter in model.parameters()] == [True, True, False, True]
