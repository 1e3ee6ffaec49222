"""A model of tokens is its embedding and the rest of it, and what is attacked is the rest."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import robustdeq as rd
from robustdeq.base.errors import InputError
from robustdeq.zoo.factory import imported

READER = imported(f"{Path(__file__).parents[2] / 'examples' / 'token_model.py'}:reader")
WORDS, LENGTH, WIDTH = 17, 64, 8
BOUNDS = (-10.0, 10.0)


class Plain(nn.Module):
    """A bag of words, and something else that reads the tokens or not."""

    def __init__(self, reads: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.words, self.head, self.reads = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, 10), reads

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.reads(self.words(tokens), tokens).mean(dim=1))


def plain() -> Plain:
    return Plain(lambda embedded, _: embedded)


def reader() -> rd.DEQ:
    torch.manual_seed(0)
    return READER(nn.Embedding(WORDS, WIDTH), LENGTH, WIDTH)


def digits(n: int = 4) -> tuple[Tensor, Tensor]:
    """Each pixel is a word, one of seventeen shades of grey."""
    x, y = rd.data.load("digits").require("test").head(n).tensors()
    return (16 * x).round().long().flatten(1), y


def test_a_module_is_its_embedding_and_the_rest() -> None:
    model, (tokens, _) = plain().train(), digits()
    embedding, rest = rd.models.embedded(model, tokens)
    assert embedding is model.words
    assert_close(rest(embedding(tokens)), model(tokens), rtol=0, atol=0)
    assert rest.head.weight is model.head.weight
    assert isinstance(model.words, nn.Embedding)
    assert model.training
    assert rest.training


def test_both_parts_are_trained_as_one() -> None:
    model, (tokens, y) = reader(), digits(8)
    embedding, rest = rd.models.embedded(model, tokens)
    nn.functional.cross_entropy(rest(embedding(tokens)), y).backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
    assert torch.equal(rest.injection(embedding(tokens)), model.injection(tokens))


@pytest.mark.parametrize("norm", ["L2", "Linf"])
def test_adversaries_of_words_lie_in_the_ball_around_what_is_embedded(norm: str) -> None:
    tokens, y = digits()
    embedding, rest = rd.models.embedded(reader().eval(), tokens)
    x = embedding(tokens).detach()
    assert isinstance(rest, rd.DEQ)
    attack = rd.attacks.PGD(eps=0.5, step_size=0.2, steps=2, norm=norm, bounds=BOUNDS)
    found = attack(rd.Surrogate(rest, rd.gradients.ThroughSolver()), x, y)
    assert found.shape == (4, LENGTH, WIDTH)
    assert 0.4 < attack.threat.measure.size(found - x).max() <= 0.5 * (1 + 1e-5)
    estimators = rd.evaluation.Estimators(steps=(1,), dampings=(1.0,), states=2)
    result = rd.evaluation.measure(rest, x, y, rd.evaluation.Paper(attack, estimators), early=2)
    assert result.defenses == ("final", "early (z_2)", "ensemble")
    assert result.settings["attack"]["norm"] == norm


def test_an_exchange_of_words_is_a_perturbation_as_large_as_their_vectors_differ() -> None:
    model, (tokens, _) = plain().eval(), digits()
    embedding, rest = rd.models.embedded(model, tokens)
    other = tokens.clone()
    other[:, 5] = (other[:, 5] + 3) % WORDS
    apart = embedding(other) - embedding(tokens)
    vectors = model.words.weight
    assert_close(
        rd.attacks.PGD(norm="L2").threat.measure.size(apart), (vectors[other] - vectors[tokens])[:, 5].norm(dim=1)
    )
    assert_close(rest(embedding(tokens) + apart), model(other))


FAULTS: dict[str, tuple[Callable[[], nn.Module], str | None, str]] = {
    "none": (lambda: nn.Linear(3, 3), None, "the model has no nn.Embedding; name what embeds its tokens"),
    "two": (
        lambda: nn.Sequential(nn.Embedding(2, 2), nn.Embedding(2, 2)),
        None,
        "the model has 2 embeddings (0, 1); name what embeds its tokens, such as at='injection.words'",
    ),
    "no such": (plain, "wrods", "the model has no part 'wrods'; name what embeds its tokens"),
    "whole": (plain, "", "the model has no part ''; name what embeds its tokens"),
    "masked": (
        lambda: Plain(lambda embedded, tokens: embedded * (tokens != 0)[..., None]),
        None,
        "the model does not depend on its tokens through 'words' alone; make all it takes of them, such as a mask, a",
    ),
    "weighed": (
        lambda: Plain(lambda embedded, tokens: embedded * (1 + tokens.double().mean()).float()),
        None,
        "the model does not depend on its tokens through 'words' alone",
    ),
    "behind": (reader, "cell.query", "the model does not depend on its tokens through 'cell.query' alone"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_model_that_cannot_be_cut_is_one_sentence(fault: str) -> None:
    make, at, said = FAULTS[fault]
    with pytest.raises(InputError, match=re.escape(said)):
        rd.models.embedded(make(), digits()[0], at)
