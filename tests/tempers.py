"""Samples of every temper side by side: f contracts, expands, turns or breaks, as each of them says itself."""

import math
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from robustdeq.deq.model import DEQ, StateGradient
from robustdeq.deq.tail import Unroll
from robustdeq.solvers import Anderson, Broyden, Picard, Solver

DIM = 4
CLASSES = 3


class TemperedCell(nn.Module):
    """φ(gain · Q z + shift) with Q orthogonal and φ the identity or tanh; what breaks beyond a radius."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linalg.qr(torch.randn(DIM, DIM)).Q)

    def initial_state(self, u: Tensor) -> Tensor:
        return u.new_zeros(len(u), DIM)

    def forward(self, z: Tensor, u: Tensor) -> Tensor:
        gain, bent, radius, broken, shift = u.split([1, 1, 1, 1, DIM], dim=1)
        straight = gain * (z @ self.weight.T) + shift
        value = torch.where(bent > 0, straight.tanh(), straight)
        return torch.where(z.norm(dim=1, keepdim=True) > radius, broken, value)


def samples(largest_gain: float = 4.0) -> st.SearchStrategy[list[float]]:
    """One sample, as the numbers that `TemperedCell` reads."""
    gain, bent = st.floats(-largest_gain, largest_gain), st.sampled_from([0.0, 1.0])
    radius = st.just(math.inf) | st.floats(-1, 4)
    broken = st.sampled_from([math.nan, math.inf, -math.inf, 1e300])
    shift = st.lists(st.floats(-2, 2), min_size=DIM, max_size=DIM)
    return st.tuples(gain, bent, radius, broken, shift).map(lambda drawn: [*drawn[:4], *drawn[4]])


@st.composite
def companies(draw: st.DrawFn, largest_gain: float = 4.0) -> tuple[int, Tensor, Tensor]:
    """The place of a sample in two batches of one size, between neighbours of any temper, and these batches."""
    size = draw(st.integers(1, 8))
    place = draw(st.integers(0, size - 1))
    anybody = samples() | st.just([math.nan] * (4 + DIM))
    batches = torch.tensor(draw(st.lists(st.lists(anybody, min_size=size, max_size=size), min_size=2, max_size=2)))
    batches[:, place] = torch.tensor(draw(samples(largest_gain)))
    return place, *batches


@st.composite
def methods(draw: st.DrawFn) -> Solver:
    """Any solver with any settings."""
    shared: dict[str, Any] = {
        "max_steps": draw(st.integers(1, 9)),
        "tol": draw(st.sampled_from([0.0, 1e-3, 1e-1])),
        "stop": draw(st.sampled_from(["rel", "abs"])),
        "result": draw(st.sampled_from(["best", "last"])),
        "divergence": draw(st.sampled_from([10.0, 1e6])),
    }
    match draw(st.sampled_from(["broyden", "anderson", "picard"])):
        case "broyden":
            limit, step_size = st.none() | st.integers(1, 4), st.sampled_from([1.0, 0.7, 1.3])
            return Broyden(**shared, step_size=draw(step_size), line_search=draw(st.integers(0, 2)), limit=draw(limit))
        case "anderson":
            mixing, ridge = st.sampled_from([1.0, 0.7]), st.sampled_from([1e-4, 0.0])
            return Anderson(**shared, history=draw(st.integers(1, 4)), mixing=draw(mixing), ridge=draw(ridge))
    return Picard(**shared, damping=draw(st.sampled_from([1.0, 0.6])))


def tempered(solver: Solver, tail: Unroll | None = None, gradient: StateGradient | None = None) -> DEQ:
    """A model of images (B, 4 + DIM), which say of what temper they are."""
    torch.manual_seed(0)
    return DEQ(nn.Identity(), TemperedCell(), nn.Linear(DIM, CLASSES), solver, tail, gradient)
