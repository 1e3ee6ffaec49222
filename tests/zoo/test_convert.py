"""Checkpoints of other code: every tensor comes to its place, and a file that is not one is refused in one sentence."""

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

import robustdeq as rd
from robustdeq.base.errors import InputError
from robustdeq.models import MDEQ, PRESETS, MDEQConfig, Unroll
from robustdeq.solvers import Broyden, Picard
from robustdeq.zoo.convert import convert_checkpoint, from_checkpoint
from robustdeq.zoo.registry import read_card
from robustdeq.zoo.resnet import ResNet, ResNetConfig, WideResNet, WideResNetConfig

TWO_SCALES = """
downsample.0 downsample.1 downsample.3 downsample.4
fullstage.branches.0.blocks.0.conv1 fullstage.branches.0.blocks.0.gn1 fullstage.branches.0.blocks.0.conv2
fullstage.branches.0.blocks.0.gn2 fullstage.branches.0.blocks.0.gn3
fullstage.branches.1.blocks.0.conv1 fullstage.branches.1.blocks.0.gn1 fullstage.branches.1.blocks.0.conv2
fullstage.branches.1.blocks.0.gn2 fullstage.branches.1.blocks.0.gn3
fullstage.fuse_layers.0.1.net.conv fullstage.fuse_layers.0.1.net.gnorm
fullstage.fuse_layers.1.0.net.0.conv fullstage.fuse_layers.1.0.net.0.gnorm
fullstage.post_fuse_layers.0.conv fullstage.post_fuse_layers.1.conv
incre_modules.0.0.conv1 incre_modules.0.0.bn1 incre_modules.0.0.conv2 incre_modules.0.0.bn2
incre_modules.0.0.conv3 incre_modules.0.0.bn3 incre_modules.0.0.downsample.0 incre_modules.0.0.downsample.1
incre_modules.1.0.conv1 incre_modules.1.0.bn1 incre_modules.1.0.conv2 incre_modules.1.0.bn2
incre_modules.1.0.conv3 incre_modules.1.0.bn3 incre_modules.1.0.downsample.0 incre_modules.1.0.downsample.1
downsamp_modules.0.0 downsamp_modules.0.1 final_layer.0 final_layer.1 classifier
"""
THREE_SCALES = """
downsample.0 downsample.1 downsample.3 downsample.4 stage0.0 stage0.1
fullstage.branches.0.blocks.0.conv1 fullstage.branches.0.blocks.0.gn1 fullstage.branches.0.blocks.0.conv2
fullstage.branches.0.blocks.0.gn2 fullstage.branches.0.blocks.0.gn3
fullstage.branches.1.blocks.0.conv1 fullstage.branches.1.blocks.0.gn1 fullstage.branches.1.blocks.0.conv2
fullstage.branches.1.blocks.0.gn2 fullstage.branches.1.blocks.0.gn3
fullstage.branches.2.blocks.0.conv1 fullstage.branches.2.blocks.0.gn1 fullstage.branches.2.blocks.0.conv2
fullstage.branches.2.blocks.0.gn2 fullstage.branches.2.blocks.0.gn3
fullstage.fuse_layers.0.1.net.conv fullstage.fuse_layers.0.1.net.gnorm
fullstage.fuse_layers.0.2.net.conv fullstage.fuse_layers.0.2.net.gnorm
fullstage.fuse_layers.1.0.net.0.conv fullstage.fuse_layers.1.0.net.0.gnorm
fullstage.fuse_layers.1.2.net.conv fullstage.fuse_layers.1.2.net.gnorm
fullstage.fuse_layers.2.0.net.0.conv fullstage.fuse_layers.2.0.net.0.gnorm
fullstage.fuse_layers.2.0.net.1.conv fullstage.fuse_layers.2.0.net.1.gnorm
fullstage.fuse_layers.2.1.net.0.conv fullstage.fuse_layers.2.1.net.0.gnorm
fullstage.post_fuse_layers.0.conv fullstage.post_fuse_layers.1.conv fullstage.post_fuse_layers.2.conv
incre_modules.0.0.conv1 incre_modules.0.0.bn1 incre_modules.0.0.conv2 incre_modules.0.0.bn2
incre_modules.0.0.conv3 incre_modules.0.0.bn3 incre_modules.0.0.downsample.0 incre_modules.0.0.downsample.1
incre_modules.1.0.conv1 incre_modules.1.0.bn1 incre_modules.1.0.conv2 incre_modules.1.0.bn2
incre_modules.1.0.conv3 incre_modules.1.0.bn3 incre_modules.1.0.downsample.0 incre_modules.1.0.downsample.1
incre_modules.2.0.conv1 incre_modules.2.0.bn1 incre_modules.2.0.conv2 incre_modules.2.0.bn2
incre_modules.2.0.conv3 incre_modules.2.0.bn3 incre_modules.2.0.downsample.0 incre_modules.2.0.downsample.1
downsamp_modules.0.0 downsamp_modules.0.1 downsamp_modules.1.0 downsamp_modules.1.1
final_layer.0 final_layer.1 classifier
"""
SMALL = MDEQConfig((8, 16, 8), (3, 1, 4), final_channels=5, expansion=2)


def published(model: MDEQ, modules: str) -> dict[str, Tensor]:
    """The state dict of a model under the published names, which list its modules in the same order as ours do."""
    ours = list(dict.fromkeys(name.rpartition(".")[0] for name in model.state_dict()))
    names = dict(zip(ours, modules.split(), strict=True))
    return {
        f"{names[module]}.{leaf}": tensor.contiguous()
        for name, tensor in model.state_dict().items()
        for module, _, leaf in [name.rpartition(".")]
    }


def randomised(model: MDEQ) -> MDEQ:
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape) * 2 + 0.5)
    return model.eval()


def tiny() -> MDEQ:
    return randomised(rd.models.mdeq("tiny", num_classes=7, in_channels=1))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint.pth.tar"


def same(model: nn.Module, other: nn.Module) -> None:
    for (name, tensor), (other_name, found) in zip(model.state_dict().items(), other.state_dict().items(), strict=True):
        assert name == other_name
        assert torch.equal(tensor, found), name


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"epoch": 3, "model": "mdeq", "state_dict": state, "optimizer": {"state": {}}},
        lambda state: {"net": state, "acc": 81.5},
    ],
    ids=["bare", "published", "net"],
)
def test_published_checkpoint_becomes_the_model(wrap: Callable[..., object], prefix: str, path: Path) -> None:
    model = tiny()
    state = {prefix + name: tensor for name, tensor in published(model, TWO_SCALES).items()}
    torch.save(wrap(state), path)
    converted = from_checkpoint(path)
    assert isinstance(converted, MDEQ)
    same(converted, model)
    assert not converted.training
    assert converted.config == PRESETS["tiny"]
    assert (converted.num_classes, converted.in_channels) == (7, 1)
    assert converted.solver == Broyden(max_steps=18, tol=1e-3, stop="rel")
    assert converted.tail == Unroll(1, 1.0)


def test_size_is_read_off_the_tensors(path: Path) -> None:
    model = randomised(rd.models.mdeq(SMALL))
    save_file(published(model, THREE_SCALES), path.with_suffix(".safetensors"))
    converted = from_checkpoint(path.with_suffix(".safetensors"), tail=model.tail)
    assert isinstance(converted, MDEQ)
    same(converted, model)
    assert converted.config == SMALL
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(converted(x), model(x))


@pytest.mark.parametrize("size", ["large", "xl"])
def test_published_sizes_are_recognised(size: str) -> None:
    with torch.device("meta"):
        weights = {
            name: tensor
            for i, (channels, head) in enumerate(zip(PRESETS[size].channels, PRESETS[size].head_channels, strict=True))
            for name, tensor in {
                f"fullstage.branches.{i}.blocks.0.conv1.weight_v": torch.empty(5 * channels, channels, 3, 3),
                f"incre_modules.{i}.0.conv1.weight": torch.empty(head, channels, 1, 1),
            }.items()
        }
        weights["final_layer.0.weight"] = torch.empty(PRESETS[size].final_channels, 1, 1, 1)
    assert rd.zoo.convert._mdeq_config(weights) == PRESETS[size]


def test_what_the_tensors_do_not_show_is_an_argument(path: Path) -> None:
    config = MDEQConfig((6, 6), (2, 2), 5, expansion=1, groups=3, post_groups=2, image_size=8, max_steps=4)
    model = randomised(rd.models.mdeq(config))
    torch.save(published(model, TWO_SCALES), path)
    with pytest.raises(InputError, match=r"No MDEQ has these tensors and the published groups .* pass its config"):
        from_checkpoint(path)
    converted = from_checkpoint(path, config, Picard(3, 0.0), Unroll(5, 0.5, from_image=True))
    assert isinstance(converted, MDEQ)
    same(converted, model)
    assert (converted.solver, converted.tail) == (Picard(3, 0.0), Unroll(5, 0.5, from_image=True))
    assert converted.image_shape == (3, 8, 8)


@pytest.mark.parametrize("classes", [10, 4])
def test_residual_networks_are_recognised(classes: int, path: Path) -> None:
    for net in (
        ResNet(ResNetConfig((2, 1, 3), width=4), classes, 1),
        WideResNet(WideResNetConfig(16, 2), classes, 3),
    ):
        torch.save({f"module.{name}": tensor for name, tensor in net.state_dict().items()}, path)
        converted = from_checkpoint(path)
        assert type(converted) is type(net)
        assert (converted.config, converted.num_classes, converted.in_channels) == (
            net.config,
            classes,
            net.in_channels,
        )
        same(converted, net)
        with pytest.raises(InputError, match="does not hold a DEQ; leave out its config, solver and tail"):
            from_checkpoint(path, tail=Unroll())


def test_first_block_that_a_wide_network_never_runs_is_left_out(path: Path) -> None:
    net = WideResNet(WideResNetConfig(10, 1), 10, 3)
    unused = {name.replace("block1", "sub_block1"): t for name, t in net.state_dict().items() if "block1" in name}
    assert unused
    torch.save(net.state_dict() | unused, path)
    same(from_checkpoint(path), net)


def test_converted_file_loads_and_names_its_source(path: Path) -> None:
    torch.save(published(tiny(), TWO_SCALES), path)
    target = path.parent / "tiny.safetensors"
    model = convert_checkpoint(path, target, tail=Unroll(5, 0.5, from_image=True))
    loaded = rd.load(target)
    same(loaded, model)
    assert rd.models.fingerprint(loaded) == rd.models.fingerprint(model)
    assert read_card(target).provenance == {
        "checkpoint": "checkpoint.pth.tar",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


def without(*names: str) -> Callable[[dict[str, Tensor]], None]:
    return lambda state: [state.pop(name) for name in names] and None


def with_tensor(name: str, tensor: Tensor) -> Callable[[dict[str, Tensor]], None]:
    return lambda state: state.update({name: tensor})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("classifier.bias"), r"do not make a MDEQ \(missing: classifier\.bias\)\.$"),
        (
            without(*(f"downsample.1.{leaf}" for leaf in ("weight", "bias", "running_mean", "running_var"))),
            r"\(missing: downsample\.1\.weight, downsample\.1\.bias, downsample\.1\.running_mean and 1 more\)\.$",
        ),
        (with_tensor("injection.stem.0.0.weight", torch.zeros(1)), r"\(unknown: injection\.stem\.0\.0\.weight\)\.$"),
        (
            with_tensor("classifier.bias", torch.zeros(8)),
            r"\(of another shape: classifier\.bias \(8,\) instead of \(7,\)\)\.$",
        ),
        (without("classifier.weight"), "lacks the tensor 'classifier.weight'; give a whole checkpoint"),
        (without("incre_modules.1.0.conv1.weight"), "lacks the tensor 'incre_modules.1.0.conv1.weight'"),
        (with_tensor("downsample.0.weight", torch.zeros(24)), "has a tensor with too few dimensions"),
        (
            with_tensor("stage0.0.weight", torch.tensor([1, float("nan")])),
            r"has weights that are not finite, in stage0\.0\.weight; take an earlier",
        ),
        (
            without("fullstage.branches.0.blocks.0.conv1.weight_v"),
            r"holds no MDEQ .* its tensors are downsample\.0\.weight, .* and \d+ more\.$",
        ),
    ],
)
def test_state_dict_that_does_not_fit_is_refused(
    change: Callable[[dict[str, Tensor]], None], message: str, path: Path
) -> None:
    state = published(tiny(), TWO_SCALES)
    change(state)
    torch.save(state, path)
    with pytest.raises(InputError, match=message) as raised:
        from_checkpoint(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [{}, [], {"state_dict": {}}, {"epoch": 3}, torch.zeros(3)], ids=str)
def test_file_without_a_state_dict_is_refused(content: Any, path: Path) -> None:
    torch.save(content, path)
    with pytest.raises(InputError, match="holds no state dict of tensors"):
        from_checkpoint(path)


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.victim),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_not_run(zipped: bool, path: Path) -> None:
    victim = path.parent / "victim"
    content = {"state_dict": {"weight": torch.zeros(1)}, "extra": Payload(victim)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        InputError, match=r"could run code when it is read; save the state_dict by itself.*\.$"
    ) as raised:
        from_checkpoint(path)
    assert not victim.exists()
    assert "\n" not in str(raised.value)
    torch.load(path, weights_only=False)
    assert victim.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_truncated_file_is_refused(share: float, suffix: str, path: Path) -> None:
    path = path.with_suffix(suffix)
    state = published(tiny(), TWO_SCALES)
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=re.escape(str(path))):
        from_checkpoint(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@given(content=st.binary(max_size=64))
def test_any_other_file_is_refused(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "other.pth"
    path.write_bytes(content)
    with pytest.raises(InputError):
        from_checkpoint(path)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "no.pth", tmp_path / "no.safetensors"):
        with pytest.raises(InputError, match="is no file; give a checkpoint"):
            from_checkpoint(path)
