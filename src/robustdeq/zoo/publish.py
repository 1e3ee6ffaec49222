"""Weights and their card to the Hugging Face Hub: `rd.push`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from robustdeq.base.files import file_digest
from robustdeq.base.tensors import read_sealed
from robustdeq.zoo import hub
from robustdeq.zoo.card import card_markdown, stored_type
from robustdeq.zoo.registry import load, locate, read_card
from robustdeq.zoo.shards import index, index_name, row_names


def push(
    name_or_path: str | Path,
    repository: str,
    *,
    private: bool | None = None,
    license: str | None = None,
    trust: bool = False,
) -> str:
    """Upload weights and their model card to the Hugging Face Hub, in one commit.

    There they are `model.safetensors`, or a row of shards with its index, and `README.md`, in the place of those of an
    earlier push; other files stay.

    Args:
        name_or_path: as for `load`.
        repository: `OWNER/NAME`; made where it is missing. Log in first, by `hf auth login`.
        private: whether a repository that is made is its owner's alone; None for what the account has by default.
        license: of the weights, as the Hub calls it (`"mit"`); None for what their provenance records.
        trust: let the code run that makes the model, as for `load`; the code itself is not uploaded.

    Returns:
        What `load` takes for these very weights, `hf://OWNER/NAME@COMMIT`; `hf://OWNER/NAME` is the newest.

    Raises:
        InputError: there are no such weights, their code is not trusted, or the Hub does not take them.
    """
    files = locate(name_or_path)
    named = dict(zip(row_names(hub.NAME, len(files)), files, strict=True))
    digests = {name: file_digest(file) for name, file in named.items()}
    card, model = read_card(files[0]), load(files[0], trust)
    shards = {name: read_sealed(file)[0] for name, file in named.items()}
    if license is not None:
        card = replace(card, provenance={**card.provenance, "license": license})
    weights = {name: tensor for shard in shards.values() for name, tensor in shard.items()}
    title, source = repository.rpartition("/")[2], f"hf://{repository}"
    text = card_markdown(card, model, title, digests, stored_type(weights), source)
    indices = {index_name(hub.NAME): index(shards).encode()} if len(shards) > 1 else {}
    commit = hub.upload(repository, {**named, **indices}, text, private)
    hub.downloaded.cache_clear()
    return f"{source}@{commit}"
