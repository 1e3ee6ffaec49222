"""What an entry.toml may say: everything that makes no sense is refused in one sentence, before anything is loaded."""

import math
from pathlib import Path

import pytest

from robustdeq.base.errors import InputError
from robustdeq.leaderboard import Statement

GOOD = {
    "name": '"a model"',
    "training": '"PGD-AT"',
    "network": '"model.safetensors"',
    "data": '"digits"',
    "images": "20",
    "eps": '"8/255"',
    "norm": '"Linf"',
    "adversaries": '"worst.safetensors"',
    "worst_case": "12.5",
}


def written(path: Path, **changed: str | None) -> Path:
    said = {name: text for name, text in (GOOD | changed).items() if text is not None}
    path.write_text("\n".join(f"{name} = {text}" for name, text in said.items()), encoding="utf-8")
    return path


def test_what_is_said_is_read(tmp_path: Path) -> None:
    said = Statement.read(
        written(tmp_path / "entry.toml", reported="47", protocol='"PGD-10"', certificate='"lipschitz"')
    )
    assert said.threat().eps == pytest.approx(8 / 255)
    assert (said.worst_case, said.reported, said.protocol, said.certificate) == (12.5, 47, "PGD-10", "lipschitz")
    assert math.isnan(Statement.read(written(tmp_path / "entry.toml")).reported)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"name": None}, "does not say name; add it"),
        ({"worst_cas": "3"}, "says worst_cas, which means nothing here; did you mean worst_case?"),
        ({"images": '"many"'}, "says images = 'many'; give a number"),
        ({"images": "true"}, "says images = True; give a number"),
        ({"images": "0"}, "images is 0"),
        ({"name": "3"}, "says name = 3; give text"),
        ({"name": '" "'}, "name and training are empty"),
        ({"eps": '"tenth"'}, "eps is 'tenth'; give a number, or a fraction"),
        ({"eps": '"1/0"'}, "eps is '1/0'"),
        ({"eps": "nan"}, "says eps = nan; give a number"),
        ({"norm": '"L7"'}, "L7"),
        ({"worst_case": "120"}, "worst_case is 120"),
        ({"worst_case": None}, "say how many images withstand"),
        ({"adversaries": None, "worst_case": None}, "neither a file of adversaries nor a certificate"),
        ({"certificate": '"trust me"'}, "give lipschitz, interval or smoothing"),
        ({"sigma": "-1"}, "sigma is -1"),
        ({"certificate": '"smoothing"'}, "smoothing certifies a vote"),
        ({"draws": "0"}, "draws is 0"),
        ({"reported": "47"}, "give reported and its protocol together"),
        ({"name": "= ="}, "is no TOML"),
    ],
    ids=str,
)
def test_nonsense_is_refused_in_one_sentence(tmp_path: Path, changed: dict[str, str | None], sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        Statement.read(written(tmp_path / "entry.toml", **changed))
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        Statement.read(tmp_path / "none.toml")
