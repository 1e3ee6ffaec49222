"""A DEQ of token sequences: a weight-tied transformer block (Bai, Kolter and Koltun, NeurIPS 2019) with a memory.

    robustdeq evaluate examples/token_model.py:build --data digits --attack.eps 0.25

takes each row of a digit for a token. `docs/tokens.md` attacks the same model of words, where they are embedded.
"""

import torch
from torch import Tensor, nn

import robustdeq as rd

State = tuple[Tensor, Tensor]


class Block(nn.Module):
    """The hidden sequence (B, T, E) attends to itself and to the memory (B, E), which takes up its mean."""

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(length, width))
        self.query, self.recall, self.answer = (nn.Linear(width, size) for size in (width, width, 2 * width))
        self.feed = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def initial_state(self, u: Tensor) -> State:
        """Nothing seen, nothing remembered."""
        return torch.zeros_like(u), torch.zeros_like(u[:, 0])

    def forward(self, z: State, u: Tensor) -> State:
        """The next state."""
        hidden, memory = z
        keys, values = self.answer(torch.cat([memory[:, None], hidden], dim=1)).chunk(2, dim=2)
        attention = (self.query(hidden) @ keys.mT / hidden.shape[2] ** 0.5).softmax(dim=2)
        mixed = self.norm1(u + self.places + hidden + attention @ values)
        return self.norm2(mixed + self.feed(mixed)), torch.tanh(memory / 2 + self.recall(hidden.mean(dim=1)))


class Head(nn.Linear):
    """The logits of a state."""

    def forward(self, z: State) -> Tensor:
        """Logits (B, K) of the mean of the sequence and its memory."""
        return super().forward(torch.cat([z[0].mean(dim=1), z[1]], dim=1))


def reader(embedding: nn.Module, length: int, width: int, steps: int = 8) -> rd.DEQ:
    """The model of sequences of so many tokens, with fresh weights but for those of the embedding."""
    solver = rd.solvers.Broyden(max_steps=steps)
    return rd.DEQ(embedding, Block(length, width), Head(2 * width, 10), solver, gradient=rd.gradients.Phantom(3, 0.5))


def build(width: int = 16, steps: int = 8) -> rd.DEQ:
    """The model of 8×8 images, whose rows are the tokens."""
    torch.manual_seed(0)
    return reader(nn.Sequential(nn.Flatten(1, 2), nn.Linear(8, width)), 8, width, steps)
