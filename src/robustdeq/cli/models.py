"""`robustdeq models`: what can be loaded or built by name."""

from __future__ import annotations

import torch
from rich.table import Table

from robustdeq.cli.console import console
from robustdeq.zoo.presets import MODELS
from robustdeq.zoo.registry import packaged_names, read_card


def models() -> None:
    """List the sizes of models and the weights that can be loaded by name."""
    sizes = Table(title="sizes")
    for heading in ("name", "architecture", "parameters"):
        sizes.add_column(heading, justify="right" if heading == "parameters" else "left")
    for name, config in MODELS.items():
        with torch.device("meta"):
            count = sum(parameter.numel() for parameter in config.build().parameters())
        sizes.add_row(name, config.summary, f"{count:,}")
    console.print(sizes)
    packaged = Table("name", "early state", "trained on", title="weights")
    for name in packaged_names():
        card = read_card(name)
        data = card.provenance.get("data")
        packaged.add_row(name, str(card.early or "–"), data["train"] if isinstance(data, dict) else str(data or ""))
    console.print(packaged if packaged_names() else "There are no weights by name; train some.")
