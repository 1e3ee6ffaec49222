"""A model that attacks break on some images and not on others."""

from dataclasses import replace

import pytest
import torch

import robustdeq as rd


@pytest.fixture(scope="session")
def trained() -> rd.models.MDEQ:
    """A nano model of three solver steps, trained for a few steps on digits.

    In float64, in which no machine's rounding grows into other weights; only then is it rounded to float32.
    """
    torch.manual_seed(1)
    torch.set_default_dtype(torch.float64)
    deq = rd.models.mdeq(replace(rd.models.PRESETS["nano"], max_steps=3), in_channels=1)
    torch.set_default_dtype(torch.float32)
    x, y = rd.data.load("digits").require("train").head(256).tensors()
    x = x.double()
    optimizer = torch.optim.Adam(deq.parameters(), 1e-2)
    for step in range(32):
        chosen = slice(64 * (step % 4), 64 * (step % 4 + 1))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(deq(x[chosen]), y[chosen]).backward()
        optimizer.step()
    optimizer.zero_grad()
    for module in deq.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        deq(x)
    return deq.float().eval()
