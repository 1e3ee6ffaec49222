"""Weights on the Hugging Face Hub: `hf://OWNER/NAME`, in full `hf://OWNER/NAME@REVISION/FILE.safetensors`.

`huggingface_hub` keeps what it downloads in its cache and falls back on it offline. Endpoint, cache and account are
those of its own settings (`HF_ENDPOINT`, `HF_HOME`, `hf auth login`).
"""

from __future__ import annotations

import glob
import re
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import huggingface_hub

from robustdeq.base.errors import InputError, require
from robustdeq.zoo.shards import SUFFIX, files_at, stem

NAME = "model"

_SCHEME = "hf://"
_FILES = re.compile(rf"{NAME}(-\d{{5}}-of-\d{{5}})?\{SUFFIX}(\.index\.json)?")
_COMMIT = re.compile("[0-9a-f]{40}")
_CARD = "README.md"


def is_reference(name: str) -> bool:
    """Whether a name is one of weights on the Hub."""
    return name.startswith(_SCHEME)


@cache
def downloaded(reference: str) -> tuple[Path, ...]:
    """The weights behind a reference, one file or a row of shards; a process asks the Hub once.

    Args:
        reference: `hf://OWNER/NAME`, with `@REVISION` for a branch, a tag or a commit other than the newest, and with
            the path of a file where it is not `model.safetensors`.

    Raises:
        InputError: it is no such reference, there are no such weights, or the Hub does not give them.
    """
    from huggingface_hub.errors import HfUriError

    try:
        place = huggingface_hub.parse_hf_uri(reference)
    except HfUriError as error:
        raise InputError(f"{reference} is no place on the Hub; give hf://OWNER/NAME.") from error
    require(place.type == "model", f"{reference} is a {place.type}; give the hf://OWNER/NAME of a model.")
    file = stem(Path(place.path_in_repo or NAME))
    pattern = glob.escape(str(file))
    with _explained(f"{reference} cannot be downloaded", place.id):
        _check_commit(place.id, place.revision)
        folder = huggingface_hub.snapshot_download(
            place.id, revision=place.revision, allow_patterns=[f"{pattern}{SUFFIX}", f"{pattern}-*-of-*{SUFFIX}"]
        )
    found = files_at(Path(folder) / file)
    require(found, f"{place.id} has no {file}{SUFFIX}; name the file as hf://{place.id}/FILE{SUFFIX}.")
    return tuple(found)


def _check_commit(repository: str, revision: str | None) -> None:
    """Raise `InputError` where the Hub calls something a commit that is none: `huggingface_hub` takes it for a path."""
    try:
        commit = huggingface_hub.HfApi().model_info(repository, revision=revision).sha
    except (huggingface_hub.errors.HTTPError, OSError):
        return  # what is wrong, the download says, or does without
    require(_COMMIT.fullmatch(str(commit)), f"the Hub calls {commit!r:.80} a commit of {repository}; try again later.")


def upload(repository: str, files: Mapping[str, Path | bytes], card: str, private: bool | None) -> str:
    """Put weights and their card into a repository in one commit, in the place of an earlier `NAME`.

    Args:
        repository: `OWNER/NAME`; made where it is missing.
        files: by their name there.
        card: its README.md.
        private: whether it is made for its owner alone; None for what the account has by default.

    Returns:
        The commit.

    Raises:
        InputError: the Hub does not take them.
    """
    api = huggingface_hub.HfApi()
    with _explained(f"{repository} cannot be pushed to", repository):
        api.create_repo(repository, private=private, exist_ok=True)
        old = {file for file in api.list_repo_files(repository) if _FILES.fullmatch(file)}
        contents = {**files, _CARD: card.encode()}
        changes = [huggingface_hub.CommitOperationAdd(name, content) for name, content in contents.items()]
        changes += [huggingface_hub.CommitOperationDelete(name) for name in sorted(old - contents.keys())]
        return api.create_commit(repository, changes, commit_message="Weights and their model card").oid


@contextmanager
def _explained(what: str, repository: str) -> Iterator[None]:
    """Tell what the Hub answers as an `InputError`."""
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError as error:
        remedy = f"accept its conditions at https://huggingface.co/{repository} and log in by `hf auth login`."
        raise InputError(f"{what}: it is gated; {remedy}") from error
    except RepositoryNotFoundError as error:
        remedy = "check the name, or log in by `hf auth login` where it is private."
        raise InputError(f"{what}: this account sees no {repository}; {remedy}") from error
    except RevisionNotFoundError as error:
        raise InputError(f"{what}: {repository} has no such revision; check what stands behind the @.") from error
    except LocalEntryNotFoundError as error:
        raise InputError(f"{what}: the Hub is out of reach and the cache lacks it; go online once.") from error
    except InputError:
        raise
    except Exception as error:
        reason = textwrap.shorten(str(error) or type(error).__name__, 200).rstrip(".")
        raise InputError(f"{what} ({reason}); try again, or log in by `hf auth login`.") from error
