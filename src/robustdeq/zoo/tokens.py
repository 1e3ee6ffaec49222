"""Models of tokens, cut behind their embedding, so that what is attacked is a sequence of vectors.

Nothing can be added to a token. The threat model is that of Miyato, Dai and Goodfellow ("Adversarial training methods
for semi-supervised text classification", ICLR 2017): a perturbation of norm ε at most, in the units of the embedding,
is added to the embedded sequence (B, T, E) as a whole, and may lead where no token is. Who withstands it withstands
every exchange of tokens that moves the embedded sequence by no more than ε.
"""

from __future__ import annotations

import copy

import torch
from jaxtyping import Integer
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from robustdeq.base.errors import InputError
from robustdeq.deq.model import DEQ
from robustdeq.deq.modes import evaluating


def embedded(
    model: nn.Module, tokens: Integer[Tensor, "batch length"], at: str | None = None
) -> tuple[nn.Module, nn.Module]:
    """The embedding of a model of tokens and the rest of it, which share its weights.

    Attack the rest at x = embedding(tokens), with bounds as wide as embeddings may become. To train the model, train
    `rest(embedding(tokens))`: a `DEQ` takes no integers by itself.

    Args:
        model: a `DEQ` whose injection embeds the tokens, or any module tokens → logits.
        tokens: a batch of sequences, on which the cut is checked.
        at: the name of the embedding among the submodules; None for the one `nn.Embedding` that there is.

    Returns:
        The embedding, tokens (B, T) → x (B, T, E), and the rest, x → logits, of the same kind as the model.

    Raises:
        InputError: there is no such embedding, or the model looks at the tokens past it.
    """
    names = [name for name, part in model.named_modules() if isinstance(part, nn.Embedding)]
    if at is None:
        if len(names) != 1:
            held = f"{len(names)} embeddings ({', '.join(names)})" if names else "no nn.Embedding"
            raise InputError(f"the model has {held}; name what embeds its tokens, such as at='injection.words'.")
        (at,) = names
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    try:
        embedding, rest = model.get_submodule(at), copy.deepcopy(model, shared)
        rest.set_submodule(at, nn.Identity())
    except (AttributeError, ValueError) as error:
        raise InputError(f"the model has no part {at!r}; name what embeds its tokens, such as at='words'.") from error
    whole, part = (cut.injection if isinstance(cut, DEQ) else cut for cut in (model, rest))
    with torch.no_grad(), evaluating(model), evaluating(rest):
        expected = tree_leaves(whole(tokens))
        try:
            found = tree_leaves(part(embedding(tokens)))
            same = all(torch.allclose(one, other) for one, other in zip(found, expected, strict=True))
        except Exception:
            same = False
    if not same:
        raise InputError(
            f"the model does not depend on its tokens through {at!r} alone; "
            "make all it takes of them, such as a mask, a part of what embeds them."
        )
    return embedding, rest
