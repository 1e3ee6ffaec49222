"""`robustdeq models`: what can be loaded or built by name."""

from __future__ import annotations

import torch
from rich.table import Table

from robustdeq.cli.console import console
from robustdeq.zoo import PRESETS, mdeq
from robustdeq.zoo.registry import packaged_names, read_card


def models() -> None:
    """List the sizes of models and the weights that can be loaded by name."""
    sizes = Table(title="sizes")
    for heading in ("name", "scales", "parameters"):
        sizes.add_column(heading, justify="left" if heading == "name" else "right")
    for name, config in PRESETS.items():
        with torch.device("meta"):
            count = sum(parameter.numel() for parameter in mdeq(name).parameters())
        sizes.add_row(name, "×".join(map(str, config.channels)), f"{count:,}")
    console.print(sizes)
    packaged = Table("name", "early state", "trained on", title="weights")
    for name in packaged_names():
        card = read_card(name)
        data = card.provenance.get("data")
        packaged.add_row(name, str(card.early or "–"), data["train"] if isinstance(data, dict) else str(data or ""))
    console.print(packaged if packaged_names() else "There are no weights by name; train some.")
