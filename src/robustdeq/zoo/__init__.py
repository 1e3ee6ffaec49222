"""The models we ship, how they are kept, and how those of others become ours."""

from robustdeq.zoo.architecture import Architecture, ZooModel
from robustdeq.zoo.card import Card, card_markdown, fingerprint
from robustdeq.zoo.conv import CONV_SIZES, ConvConfig, ConvDEQ, conv
from robustdeq.zoo.convert import convert_checkpoint, from_checkpoint
from robustdeq.zoo.mdeq import MDEQ, PRESETS, MDEQConfig, mdeq
from robustdeq.zoo.monotone import MONOTONE_SIZES, MonotoneConfig, MonotoneNetwork, monotone
from robustdeq.zoo.presets import MODELS
from robustdeq.zoo.publish import push
from robustdeq.zoo.registry import load, save
from robustdeq.zoo.resnet import (
    ResNet,
    ResNetConfig,
    WideResNet,
    WideResNetConfig,
    resnet18,
    wide_resnet34_10,
)
from robustdeq.zoo.tokens import embedded
from robustdeq.zoo.torchdeq import from_torchdeq

__all__ = [
    "CONV_SIZES",
    "MDEQ",
    "MODELS",
    "MONOTONE_SIZES",
    "PRESETS",
    "Architecture",
    "Card",
    "ConvConfig",
    "ConvDEQ",
    "MDEQConfig",
    "MonotoneConfig",
    "MonotoneNetwork",
    "ResNet",
    "ResNetConfig",
    "WideResNet",
    "WideResNetConfig",
    "ZooModel",
    "card_markdown",
    "conv",
    "convert_checkpoint",
    "embedded",
    "fingerprint",
    "from_checkpoint",
    "from_torchdeq",
    "load",
    "mdeq",
    "monotone",
    "push",
    "resnet18",
    "save",
    "wide_resnet34_10",
]
