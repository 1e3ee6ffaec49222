"""JSON is read as it is meant, or refused as such."""

import pytest

from robustdeq.base.plain import from_json


@pytest.mark.parametrize("text", [r'"\ud83d\ude00"', r'["\u00e9", "\\ud83d"]', '{"ε": [1, null]}'])
def test_what_can_be_written_is_read(text: str) -> None:
    assert str(from_json(text)).encode()


@pytest.mark.parametrize("text", [r'"\ud800"', r'{"a": ["b\uDfff"]}', r'{"\ude00\ud83d": 1}', "[" * 10**5, "{]", ""])
def test_what_cannot_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        from_json(text)
