"""`robustdeq convert`: a checkpoint of other code, as a weights file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from robustdeq.base.errors import require
from robustdeq.cli.console import say
from robustdeq.cli.outputs import refuse_to_overwrite
from robustdeq.deq import Unroll
from robustdeq.zoo import convert_checkpoint


def convert(
    checkpoint: Path,
    *,
    output: Path | None = None,
    tail: Literal["exact", "unrolled"] = "exact",
    max_steps: int | None = None,
    overwrite: bool = False,
) -> None:
    """Turn a checkpoint of the published MDEQ code, or of a CIFAR residual network, into a weights file.

    Args:
        checkpoint: a .pth.tar file with a state_dict, a bare state dict, or a safetensors file.
        output: the weights file; by default the checkpoint's name with .safetensors.
        tail: how the MDEQ was trained: exact (its output is f(z*)) or unrolled (5 damped steps more).
        max_steps: the solver's steps; by default the published ones.
        overwrite: replace the weights file.
    """
    require(checkpoint.is_file(), f"{checkpoint} is no file; give a checkpoint.")
    path = output or checkpoint.with_name(checkpoint.name.split(".")[0] + ".safetensors")
    path = path if path.suffix == ".safetensors" else path.with_name(f"{path.name}.safetensors")
    require(path != checkpoint, f"{path} would be replaced by its own conversion; choose another --output.")
    refuse_to_overwrite([path], overwrite)
    unrolled = Unroll(5, 0.5, from_image=True) if tail == "unrolled" else None
    model = convert_checkpoint(checkpoint, path, tail=unrolled, max_steps=max_steps)
    count = sum(parameter.numel() for parameter in model.parameters())
    say(f"{path} holds a {type(model).__name__} with {count:,} parameters.")
