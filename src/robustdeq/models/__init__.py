"""Deep equilibrium models and the explicit networks they are compared with."""

from robustdeq.models.card import Card, card_markdown, fingerprint
from robustdeq.models.convert import convert_checkpoint, from_checkpoint
from robustdeq.models.deq import DEQ, BoundCell, Unroll
from robustdeq.models.mdeq import MDEQ, PRESETS, MDEQConfig, mdeq
from robustdeq.models.resnet import (
    ResNet,
    ResNetConfig,
    WideResNet,
    WideResNetConfig,
    resnet18,
    wide_resnet34_10,
)
from robustdeq.models.torchdeq import from_torchdeq
from robustdeq.models.zoo import load, save

__all__ = [
    "DEQ",
    "MDEQ",
    "PRESETS",
    "BoundCell",
    "Card",
    "MDEQConfig",
    "ResNet",
    "ResNetConfig",
    "Unroll",
    "WideResNet",
    "WideResNetConfig",
    "card_markdown",
    "convert_checkpoint",
    "fingerprint",
    "from_checkpoint",
    "from_torchdeq",
    "load",
    "mdeq",
    "resnet18",
    "save",
    "wide_resnet34_10",
]
