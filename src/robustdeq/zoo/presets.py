"""The models by name: what `mdeq`, recipes, `robustdeq models`, saving and loading know.

Another network is registered by one line, here or from outside: `MODELS["mine"] = MyArchitecture(…)`.
"""

from __future__ import annotations

from robustdeq.base.errors import look_up
from robustdeq.zoo.architecture import Architecture
from robustdeq.zoo.conv import CONV_SIZES
from robustdeq.zoo.mdeq import PRESETS
from robustdeq.zoo.monotone import MONOTONE_SIZES
from robustdeq.zoo.resnet import ResNetConfig, WideResNetConfig

MODELS: dict[str, Architecture] = {
    **PRESETS,
    **{f"conv-{size}": config for size, config in CONV_SIZES.items()},
    **{f"monotone-{size}": config for size, config in MONOTONE_SIZES.items()},
    "resnet18": ResNetConfig(),
    "wrn34-10": WideResNetConfig(34, 10),
}


def architecture_named(name: str) -> Architecture:
    """The settings of a model by its name; raises `InputError` where there is none of that name."""
    return look_up("model", name, MODELS)


def architecture_kind(kind: str) -> type[Architecture]:
    """The class of settings behind the kind of network that a weights file names; raises `KeyError` for another."""
    return {config.kind: type(config) for config in MODELS.values()}[kind]
