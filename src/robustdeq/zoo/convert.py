"""Checkpoints of other code: published MDEQs and monotone DEQs, and the usual residual networks.

MDEQ: Bai, Koltun and Kolter, NeurIPS 2020. Monotone DEQs of one layer: Winston and Kolter, NeurIPS 2020. A checkpoint
is a state dict and nothing else: the size of the network is read off the shapes of its tensors, and every tensor must
find its place. How the equilibrium is solved for, and what follows it, is not in there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import count, takewhile
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from robustdeq.base.errors import InputError, require
from robustdeq.base.files import file_digest
from robustdeq.base.imports import reason
from robustdeq.deq.model import DEQ
from robustdeq.deq.tail import Unroll
from robustdeq.solvers import Solver
from robustdeq.zoo.architecture import ZooModel
from robustdeq.zoo.checkpoint import state_dict
from robustdeq.zoo.mdeq import MDEQ, PRESETS, MDEQConfig
from robustdeq.zoo.monotone import MonotoneConfig, MonotoneNetwork
from robustdeq.zoo.outline import outlined
from robustdeq.zoo.registry import save
from robustdeq.zoo.resnet import ResNet, ResNetConfig, WideResNet, WideResNetConfig

_PUBLISHED_SIZES = ("tiny", "large", "xl")
_LISTED = 3
_POOLED = 4


def from_checkpoint(
    path: str | Path,
    config: MDEQConfig | MonotoneConfig | None = None,
    solver: Solver | None = None,
    tail: Unroll | None = None,
    max_steps: int | None = None,
) -> ZooModel[Any]:
    """A model with the weights of a checkpoint, in eval mode.

    Args:
        path: a checkpoint of the published MDEQ code, of a monotone DEQ of one layer, of a CIFAR ResNet or of a wide
            ResNet: a `.pth.tar` file with a `state_dict` in it, a bare state dict, or a safetensors file; names may
            begin with `module.`.
        config: the configuration of the MDEQ or the monotone DEQ, for one whose groups, images, m or splitting are not
            the published ones (m = 1); by default it is read off the shapes of the tensors.
        solver: how the DEQ is solved; by default the published Broyden steps of an MDEQ, 18 for tiny and 8 for larger
            ones, to a relative residual of 1e-3, and the steps of `MonotoneConfig`.
        tail: what follows; by default `Unroll(1, 1.0)`, that is f(z*), which the published code trains with exact
            gradients. Models trained by unrolling have `Unroll(5, 0.5, from_image=True)`.
        max_steps: of the solver; its own by default.

    Returns:
        An `MDEQ`, a `MonotoneNetwork`, a `ResNet` or a `WideResNet`, in single precision whatever that of the file.

    Raises:
        InputError: the file is no checkpoint of such a network, or cannot be read without running code in it.
    """
    path = Path(path)
    weights = _read(path)
    try:
        with outlined(weights):
            model, weights, names = _network(path, weights, config, solver, tail)
    except KeyError as error:
        raise InputError(f"{path} lacks the tensor {error}; give a whole checkpoint.") from error
    except IndexError as error:
        raise InputError(f"{path} has a tensor with too few dimensions; give a checkpoint as it was saved.") from error
    except (ValueError, TypeError, ArithmeticError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"the tensors in {path} make no network ({reason(error)}); give a whole checkpoint."
        ) from error
    if max_steps is not None:
        if not isinstance(model, DEQ):
            raise InputError(f"{path} does not hold a DEQ; leave out its max_steps.")
        model.solver = replace(model.solver, max_steps=max_steps)
    _fill(model, weights, names, path)
    return model.eval()


def _network(
    path: Path,
    weights: dict[str, Tensor],
    config: MDEQConfig | MonotoneConfig | None,
    solver: Solver | None,
    tail: Unroll | None,
) -> tuple[ZooModel[Any], dict[str, Tensor], dict[str, str]]:
    """The network that tensors belong to, without weights; these tensors, and what they call its modules."""
    if "fullstage.branches.0.blocks.0.conv1.weight_v" in weights:
        model, names = _mdeq(weights, config, solver, tail)
    elif "mon.linear_module.A.weight" in weights:
        model, weights = _monotone(weights, config)
        model.solver, model.tail, names = solver or model.solver, tail or model.tail, {}
    elif (config, solver, tail) != (None, None, None):
        raise InputError(f"{path} does not hold a DEQ; leave out its config, solver and tail.")
    elif "layer1.0.conv1.weight" in weights:
        model, names = _resnet(weights), {}
    elif "block1.layer.0.conv1.weight" in weights:
        # the usual class registers a first block that it never runs
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith("sub_block1.")}
        model, names = _wide_resnet(weights), {}
    else:
        raise InputError(
            f"{path} holds no MDEQ of the published code, no monotone DEQ of one layer and no residual network; "
            f"its tensors are {_listing(weights)}."
        )
    return model, weights, names


def convert_checkpoint(
    source: str | Path,
    path: str | Path,
    config: MDEQConfig | MonotoneConfig | None = None,
    solver: Solver | None = None,
    tail: Unroll | None = None,
    max_steps: int | None = None,
) -> ZooModel[Any]:
    """Write the model of a checkpoint to a weights file whose card names the checkpoint and its SHA-256.

    Args:
        source: the checkpoint.
        path: the file for `rd.load`, by convention `*.safetensors`.
        config: see `from_checkpoint`, as for the next three.
        solver: how the DEQ is solved.
        tail: what follows the solve.
        max_steps: of the solver.

    Returns:
        The model.

    Raises:
        InputError: see `from_checkpoint`.
    """
    source = Path(source)
    model = from_checkpoint(source, config, solver, tail, max_steps)
    digest = file_digest(source)
    save(model, path, provenance={"checkpoint": source.name, "sha256": digest})
    return model


def _read(path: Path) -> dict[str, Tensor]:
    """The state dict in a file, without the prefix that data parallelism puts before its names."""
    content = state_dict(path)
    prefix = "module." if all(name.startswith("module.") for name in content) else ""
    weights = {name.removeprefix(prefix): tensor for name, tensor in content.items()}
    broken = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    require(not broken, f"{path} has weights that are not finite, in {_listing(broken)}; take an earlier checkpoint.")
    return weights


def _fill(model: nn.Module, weights: Mapping[str, Tensor], names: Mapping[str, str], path: Path) -> None:
    """Load weights whose modules bear other names, each tensor into its place.

    Args:
        model: what they are loaded into, without weights.
        weights: the tensors of the checkpoint.
        names: what a module of the model is called in the checkpoint, where that differs.
        path: the checkpoint.
    """
    expected = {}
    for name, tensor in model.state_dict().items():
        module, _, leaf = name.rpartition(".")
        expected[f"{names.get(module, module)}.{leaf}"] = name, tensor
    problems = {
        "missing": [name for name in expected if name not in weights],
        "unknown": [name for name in weights if name not in expected],
        "of another shape": [
            f"{name} {tuple(weights[name].shape)} instead of {tuple(tensor.shape)}"
            for name, (_, tensor) in expected.items()
            if name in weights and weights[name].shape != tensor.shape
        ],
    }
    if any(problems.values()):
        listed = "; ".join(f"{kind}: {_listing(found)}" for kind, found in problems.items() if found)
        raise InputError(f"the tensors in {path} do not make a {type(model).__name__} ({listed}).")
    model.to_empty(device="cpu")
    model.load_state_dict({ours: weights[theirs] for theirs, (ours, _) in expected.items()})


def _listing(names: Mapping[str, Tensor] | list[str]) -> str:
    first = ", ".join(list(names)[:_LISTED])
    return first if len(names) <= _LISTED else f"{first} and {len(names) - _LISTED} more"


def _mdeq(
    weights: Mapping[str, Tensor],
    config: MDEQConfig | MonotoneConfig | None,
    solver: Solver | None,
    tail: Unroll | None,
) -> tuple[MDEQ, dict[str, str]]:
    if not isinstance(config, MDEQConfig | None):
        raise InputError("the checkpoint holds an MDEQ; give an MDEQConfig, or none.")
    try:
        config = _mdeq_config(weights) if config is None else config
        model = MDEQ(config, len(weights["classifier.weight"]), weights["downsample.0.weight"].shape[1])
    except ValueError as error:
        raise InputError(f"No MDEQ has these tensors and the published groups ({error}); pass its config.") from error
    model.solver = solver or model.solver
    model.tail = tail or Unroll(1, 1.0)
    return model, _published_names(len(config.channels))


def _mdeq_config(weights: Mapping[str, Tensor]) -> MDEQConfig:
    """The configuration that these tensors belong to: a published one, or one with the published groups."""
    blocks = (f"fullstage.branches.{i}.blocks.0.conv1.weight_v" for i in count())
    shapes = [weights[name].shape for name in takewhile(weights.__contains__, blocks)]
    config = MDEQConfig(
        channels=tuple(shape[1] for shape in shapes),
        head_channels=tuple(len(weights[f"incre_modules.{i}.0.conv1.weight"]) for i in range(len(shapes))),
        final_channels=len(weights["final_layer.0.weight"]),
        expansion=shapes[0][0] // shapes[0][1],
    )

    published = (PRESETS[name] for name in _PUBLISHED_SIZES)
    return next((preset for preset in published if preset.widths == config.widths), config)


def _published_names(scales: int) -> dict[str, str]:
    """What the published code calls each of our modules that has tensors."""
    names = {
        "injection.stem.0.0": "downsample.0",
        "injection.stem.0.1": "downsample.1",
        "injection.stem.1.0": "downsample.3",
        "injection.stem.1.1": "downsample.4",
        "injection.pointwise.0": "stage0.0",
        "injection.pointwise.1": "stage0.1",
        "head.final.0": "final_layer.0",
        "head.final.1": "final_layer.1",
        "head.classifier": "classifier",
    }
    for i in range(scales):
        block = f"fullstage.branches.{i}.blocks.0"
        names |= {f"cell.blocks.{i}.conv{n}": f"{block}.conv{n}" for n in (1, 2)}
        names |= {f"cell.blocks.{i}.norm{n}": f"{block}.gn{n}" for n in (1, 2, 3)}
        names[f"cell.projections.{i}.conv"] = f"fullstage.post_fuse_layers.{i}.conv"
        for j in range(scales):
            path, net = f"cell.fusions.{i}.paths.{j}", f"fullstage.fuse_layers.{i}.{j}.net"
            links = [f"{net}.{k}" for k in range(i - j)] if i > j else [net]
            for k, link in enumerate(links):
                names |= {f"{path}.{3 * k}": f"{link}.conv", f"{path}.{3 * k + 1}": f"{link}.gnorm"}
        bottleneck, residual = f"incre_modules.{i}.0", f"head.bottlenecks.{i}.residual"
        for n in (1, 2, 3):
            names |= {
                f"{residual}.{3 * n - 3}": f"{bottleneck}.conv{n}",
                f"{residual}.{3 * n - 2}": f"{bottleneck}.bn{n}",
            }
        names |= {f"head.bottlenecks.{i}.shortcut.{n}": f"{bottleneck}.downsample.{n}" for n in (0, 1)}
        names |= {f"head.downsamples.{i}.{n}": f"downsamp_modules.{i}.{n}" for n in (0, 1)}
    return names


def _monotone(
    weights: Mapping[str, Tensor], config: MDEQConfig | MonotoneConfig | None
) -> tuple[MonotoneNetwork, dict[str, Tensor]]:
    """A monotone DEQ of one layer, and its tensors by our names.

    The published convolutional layer normalises A and B and scales AᵀA by g and B by h; here they are multiplied out.
    """
    layer = "mon.linear_module"
    u, a, b = (weights[f"{layer}.{name}.weight"] for name in "UAB")
    if a.ndim == 2:
        u, a, b = (tensor[:, :, None, None] for tensor in (u, a, b))
    else:
        g, h = (weights[f"{layer}.{name}"] for name in "gh")
        require(bool(g >= 0), f"the scale g of AᵀA is {float(g):g}, so that W is not monotone; train with g ≥ 0.")
        a, b = g.sqrt() * a / a.norm(), h * b / b.norm()
    classifier = weights["Wout.weight"]
    config = _monotone_config(u, a, classifier) if config is None else config
    if not isinstance(config, MonotoneConfig):
        raise InputError("the checkpoint holds a monotone DEQ; give a MonotoneConfig, or none.")
    renamed = {
        "injection.1.weight": u,
        "injection.1.bias": weights[f"{layer}.U.bias"],
        "cell.operator.a": a,
        "cell.operator.b": b,
        "head.1.2.weight": classifier,
        "head.1.2.bias": weights["Wout.bias"],
    }
    return config.network(len(classifier), u.shape[1] // config.patch**2), renamed


def _monotone_config(u: Tensor, a: Tensor, classifier: Tensor) -> MonotoneConfig:
    """The configuration of the published networks that these tensors belong to: square images, m = 1.

    A fully connected one sees images of one channel where the number of its inputs is a square, else of three.
    """
    channels, inputs = u.shape[:2]
    if a.shape[-1] == 1:
        side = math.isqrt(inputs) if math.isqrt(inputs) ** 2 == inputs else math.isqrt(inputs // 3)
        return MonotoneConfig(channels=channels, side=1, patch=side, image_size=side)
    pooled = math.isqrt(classifier.shape[1] // channels)
    return MonotoneConfig(channels=channels, side=a.shape[-1], pooled=_POOLED, image_size=_POOLED * pooled)


def _resnet(weights: Mapping[str, Tensor]) -> ResNet:
    stages = takewhile(lambda stage: f"layer{stage}.0.conv1.weight" in weights, count(1))
    blocks = tuple(_length(weights, f"layer{stage}.{{}}.conv1.weight") for stage in stages)
    width, in_channels = weights["conv1.weight"].shape[:2]
    return ResNet(ResNetConfig(blocks, width), len(weights["linear.weight"]), in_channels)


def _wide_resnet(weights: Mapping[str, Tensor]) -> WideResNet:
    blocks = _length(weights, "block1.layer.{}.conv1.weight")
    config = WideResNetConfig(6 * blocks + 4, len(weights["block1.layer.0.conv1.weight"]) // 16)
    return WideResNet(config, len(weights["fc.weight"]), weights["conv1.weight"].shape[1])


def _length(weights: Mapping[str, Tensor], name: str) -> int:
    """How many tensors of a numbered name there are."""
    return sum(1 for _ in takewhile(lambda i: name.format(i) in weights, count()))
