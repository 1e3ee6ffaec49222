"""What an MDEQ promises: the published sizes, a flat state of views, and a cell that one solve holds constant."""

import math
from dataclasses import replace
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import grad, gradcheck, gradgradcheck

from robustdeq.base.errors import InputError
from robustdeq.deq.cell import BoundCell
from robustdeq.deq.model import DEQ
from robustdeq.zoo.mdeq import (
    PRESETS,
    Head,
    Injection,
    MDEQConfig,
    MultiscaleCell,
    StateLayout,
    WeightNormConv2d,
    mdeq,
)

BATCH = 3
Module = TypeVar("Module", bound=nn.Module)


@pytest.fixture
def cell() -> MultiscaleCell:
    """A nano cell in float64 with generic parameters, in evaluation mode."""
    torch.manual_seed(0)
    return generic(MultiscaleCell(StateLayout((8, 16), (8, 8)), expansion=1, groups=2, post_groups=2))


@pytest.fixture
def deep_cell() -> MultiscaleCell:
    """A cell of three scales, so that fusion has chains of two halvings and upsampling by four, with dropout."""
    torch.manual_seed(1)
    layout = StateLayout((4, 6, 8), (8, 12))
    return generic(MultiscaleCell(layout, expansion=2, groups=2, post_groups=1, dropout=0.5))


def generic(module: Module) -> Module:
    """The module in float64 and evaluation mode, with parameters that are all different from their initial values."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return module.double().eval()


def injection_and_state(cell: MultiscaleCell, batch: int = BATCH) -> tuple[Tensor, Tensor]:
    u = torch.rand(batch, *cell.layout.shapes[0], dtype=torch.float64)
    return u, torch.randn(batch, cell.layout.dimension, dtype=torch.float64)


def size_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def without_storage(size: str) -> DEQ:
    with torch.device("meta"):
        return mdeq(size)


class TestPublishedConfiguration:
    @pytest.mark.parametrize(("size", "parameters"), [("tiny", 158_890), ("large", 11_097_438), ("xl", 48_792_098)])
    def test_number_of_parameters(self, size: str, parameters: int) -> None:
        assert size_of(without_storage(size)) == parameters

    @pytest.mark.parametrize(
        ("size", "stem", "pointwise", "cell", "bottlenecks", "downsamples", "final", "classifier"),
        [
            ("large", 10_208, 1_088, 8_715_232, 408_660, 1_187_760, 757_680, 16_810),
            ("xl", 48_888, 5_328, 44_083_512, 1_056_400, 2_422_560, 1_157_400, 18_010),
        ],
    )
    def test_number_of_parameters_of_each_part(
        self,
        size: str,
        stem: int,
        pointwise: int,
        cell: int,
        bottlenecks: int,
        downsamples: int,
        final: int,
        classifier: int,
    ) -> None:
        model = without_storage(size)
        injection, head = model.injection, model.head
        assert isinstance(injection, Injection)
        assert isinstance(head, Head)
        assert size_of(injection.stem) == stem
        assert size_of(injection.pointwise) == pointwise
        assert size_of(model.cell) == cell
        assert size_of(head.bottlenecks) == bottlenecks
        assert size_of(head.downsamples) == downsamples
        assert size_of(head.final) == final
        assert size_of(head.classifier) == classifier

    def test_two_scales_have_no_pointwise_injection(self) -> None:
        injection = without_storage("tiny").injection
        assert isinstance(injection, Injection)
        assert size_of(injection.pointwise) == 0

    def test_our_own_sizes(self) -> None:
        assert 1_000_000 < size_of(without_storage("small")) < 2_000_000
        assert size_of(without_storage("nano")) < 50_000

    def test_initial_weights(self) -> None:
        torch.manual_seed(0)
        for module in mdeq("small").modules():
            if isinstance(module, nn.Conv2d):
                assert module.weight.std().item() == pytest.approx(0.01, rel=0.25)
                assert module.bias is None or module.bias.std().item() == pytest.approx(0.01, rel=0.5)
            if isinstance(module, WeightNormConv2d):
                bound = 1 / math.sqrt(module.weight_v[0].numel())
                assert 0.9 * bound < module.weight_v.abs().max() <= bound
                torch.testing.assert_close(module.fold(), module.weight_v)


class TestStateLayout:
    layout = StateLayout((4, 6, 8), (8, 12))

    def test_shapes_halve_from_scale_to_scale(self) -> None:
        assert self.layout.shapes == [(4, 8, 12), (6, 4, 6), (8, 2, 3)]
        assert self.layout.dimension == 4 * 96 + 6 * 24 + 8 * 6

    def test_scales_are_channels_last_views_of_the_state(self) -> None:
        state = torch.randn(BATCH, self.layout.dimension)
        for scale, (channels, height, width) in zip(self.layout.split(state), self.layout.shapes, strict=True):
            assert scale.shape == (BATCH, channels, height, width)
            assert scale.untyped_storage().data_ptr() == state.untyped_storage().data_ptr()
            assert scale.stride()[1:] == (1, width * channels, channels)

    def test_join_inverts_split(self) -> None:
        state = torch.randn(BATCH, self.layout.dimension)
        joined = self.layout.join(self.layout.split(state))
        assert joined.is_contiguous()
        assert torch.equal(joined, state)

    @pytest.mark.parametrize("image_size", [(10, 12), (12, 10), (0, 4)])
    def test_images_that_cannot_be_halved_are_refused(self, image_size: tuple[int, int]) -> None:
        with pytest.raises(InputError, match="multiples of 4"):
            StateLayout((4, 6, 8), image_size)


class TestWeightNormConv2d:
    def test_folded_weight(self) -> None:
        conv = generic(WeightNormConv2d(3, 5, kernel_size=3))
        for weight, v, g in zip(conv.fold(), conv.weight_v, conv.weight_g, strict=True):
            torch.testing.assert_close(weight, g * v / v.norm())

    def test_agrees_with_pytorch(self) -> None:
        conv = generic(WeightNormConv2d(3, 5, kernel_size=3))
        peer = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 5, 3, padding=1, bias=False, dtype=torch.float64))
        peer.load_state_dict(
            {"parametrizations.weight.original0": conv.weight_g, "parametrizations.weight.original1": conv.weight_v}
        )
        x = torch.randn(BATCH, 3, 4, 4, dtype=torch.float64)
        torch.testing.assert_close(conv(x, conv.fold()), peer(x))


class TestMultiscaleCell:
    def test_initial_state_is_zero(self, cell: MultiscaleCell) -> None:
        u, z = injection_and_state(cell)
        state = cell.initial_state(u)
        assert state.shape == z.shape
        assert state.dtype == u.dtype
        assert not state.any()

    def test_maps_states_to_states_and_leaves_its_arguments_alone(self, deep_cell: MultiscaleCell) -> None:
        u, z = injection_and_state(deep_cell)
        u_before, z_before = u.clone(), z.clone()
        image = deep_cell(z, u)
        assert image.shape == z.shape
        assert image.is_contiguous()
        assert torch.equal(u, u_before)
        assert torch.equal(z, z_before)

    def test_a_sample_does_not_depend_on_its_batch(self, deep_cell: MultiscaleCell) -> None:
        u, z = injection_and_state(deep_cell)
        together = deep_cell(z, u)
        alone = torch.cat([deep_cell(z[i : i + 1], u[i : i + 1]) for i in range(BATCH)])
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-10)

    def test_the_injection_reaches_every_scale_through_the_finest(self, deep_cell: MultiscaleCell) -> None:
        u, z = injection_and_state(deep_cell)
        change = deep_cell(z, u + torch.randn_like(u)) - deep_cell(z, u)
        assert all(scale.abs().max() > 1e-3 for scale in deep_cell.layout.split(change))

    def test_memory_format_of_the_injection_is_immaterial(self, deep_cell: MultiscaleCell) -> None:
        u, z = injection_and_state(deep_cell)
        torch.testing.assert_close(deep_cell(z, u), deep_cell(z, u.to(memory_format=torch.channels_last)))

    def test_derivatives_agree_with_finite_differences(self, cell: MultiscaleCell) -> None:
        u, z = (tensor.requires_grad_() for tensor in injection_and_state(cell, batch=1))
        assert gradcheck(cell, (z, u), fast_mode=True)
        assert gradgradcheck(cell, (z, u), fast_mode=True)

    def test_an_injection_of_another_size_is_refused(self, cell: MultiscaleCell) -> None:
        u, _ = injection_and_state(cell)
        with pytest.raises(InputError, match="image_size"):
            cell.bind(u[..., :6])


class TestBind:
    def test_equals_forward(self, deep_cell: MultiscaleCell) -> None:
        u, z = injection_and_state(deep_cell)
        bound = deep_cell.bind(u)
        assert isinstance(bound, BoundCell)
        torch.testing.assert_close(bound(z), deep_cell(z, u), rtol=0, atol=0)

    def test_the_injection_comes_first(self, cell: MultiscaleCell) -> None:
        u, _ = injection_and_state(cell)
        assert cell.bind(u).tensors[0] is u

    def test_tensors_are_all_that_f_depends_on(self, deep_cell: MultiscaleCell) -> None:
        """Chaining the gradients of the folded weights to g and v gives the gradient of every parameter."""
        u, z = injection_and_state(deep_cell)
        u.requires_grad_()
        cotangent = torch.randn_like(z)
        targets = (u, *deep_cell.parameters())
        direct = grad(deep_cell(z, u), targets, cotangent)
        bound = deep_cell.bind(u)
        chained = grad(bound.tensors, targets, grad(bound(z), bound.tensors, cotangent))
        for expected, actual in zip(direct, chained, strict=True):
            torch.testing.assert_close(actual, expected)

    def test_gradients_of_f_never_enter_the_graph_of_the_weight_normalisation(self, cell: MultiscaleCell) -> None:
        """That graph is freed by its first traversal, so that a second gradient would fail if it were entered."""
        u, z = injection_and_state(cell)
        u.requires_grad_()
        bound = cell.bind(u)
        for _ in range(2):
            grad(bound(z), bound.tensors, torch.ones_like(z))
        grad(bound.tensors, tuple(cell.parameters()), [torch.ones_like(tensor) for tensor in bound.tensors])

    def test_dropout_is_drawn_once_per_solve(self, deep_cell: MultiscaleCell) -> None:
        deep_cell.train()
        u, z = injection_and_state(deep_cell)
        bound, other = deep_cell.bind(u), deep_cell.bind(u)
        torch.testing.assert_close(bound(z), bound(z), rtol=0, atol=0)
        assert not torch.allclose(bound(z), other(z))

    def test_dropout_differs_between_samples(self, deep_cell: MultiscaleCell) -> None:
        deep_cell.train()
        u, z = injection_and_state(deep_cell, batch=1)
        states = deep_cell.bind(u.expand(8, -1, -1, -1))(z.expand(8, -1).contiguous())
        assert len({tuple(state.tolist()) for state in states}) > 1

    def test_no_dropout_in_evaluation_mode(self, deep_cell: MultiscaleCell) -> None:
        u, z = injection_and_state(deep_cell)
        torch.testing.assert_close(deep_cell.bind(u)(z), deep_cell.bind(u)(z), rtol=0, atol=0)


class TestMDEQ:
    @pytest.mark.parametrize("size", ["nano", "tiny", "small"])
    def test_shapes(self, size: str) -> None:
        side = PRESETS[size].image_size
        model = mdeq(size, num_classes=7, in_channels=2).eval()
        u = model.injection(torch.rand(BATCH, 2, side, side))
        assert u.shape == (BATCH, PRESETS[size].channels[0], side, side)
        assert u.is_contiguous(memory_format=torch.channels_last)
        assert isinstance(model.cell, MultiscaleCell)
        assert model.head(model.cell(model.cell.initial_state(u), u)).shape == (BATCH, 7)

    def test_solves(self) -> None:
        torch.manual_seed(0)
        logits = mdeq("nano", in_channels=1).eval()(torch.rand(BATCH, 1, 8, 8))
        assert logits.shape == (BATCH, 10)
        assert logits.isfinite().all()

    def test_images_of_another_size(self) -> None:
        model = mdeq("nano", image_size=(8, 12)).eval()
        assert model(torch.rand(BATCH, 3, 8, 12)).shape == (BATCH, 10)

    def test_a_configuration_of_ones_own(self) -> None:
        config = MDEQConfig((8, 8, 8), (2, 2, 2), final_channels=4, expansion=1, groups=2, post_groups=1, image_size=4)
        assert mdeq(config).eval()(torch.rand(BATCH, 3, 4, 4)).shape == (BATCH, 10)

    def test_a_configuration_names_one_head_width_per_scale(self) -> None:
        with pytest.raises(InputError, match="per scale"):
            MDEQConfig((8, 8, 8), (2, 2), final_channels=4)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"channels": (), "head_channels": ()}, "There are 0 channels and 0 head_channels; give one of each"),
            ({"channels": (0, 16)}, "channels is 0; give 1 or more"),
            ({"groups": 0}, "groups is 0; give 1 or more"),
            ({"groups": 3}, r"3 groups do not divide channels \(16, 16\); give multiples of them"),
            ({"post_groups": 5}, "5 groups do not divide"),
        ],
    )
    def test_a_configuration_that_makes_no_model_is_refused(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            replace(PRESETS["nano"], **settings)

    def test_an_unknown_size_is_refused_with_the_known_ones(self) -> None:
        with pytest.raises(InputError, match="nano, tiny, small, large, xl"):
            mdeq("huge")

    def test_images_that_do_not_fit_are_refused(self) -> None:
        with pytest.raises(InputError, match="30×30"):
            mdeq("large", image_size=30)

    @pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 1, 8, 9), (2, 64)])
    def test_an_input_of_another_shape_is_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(InputError, match=r"made for \(1, 8, 8\)"):
            mdeq("nano", in_channels=1).eval()(torch.rand(shape))

    def test_an_input_of_another_precision_is_refused(self) -> None:
        with pytest.raises(InputError, match="float64"):
            mdeq("nano", in_channels=1).eval()(torch.rand(2, 1, 8, 8, dtype=torch.float64))
