"""A fingerprint of the code changes with what the code does, and with nothing else."""

from pathlib import Path

import pytest

from robustdeq.base.provenance import code_fingerprint

SOURCE = '''"""A module."""

def double(x):
    """Twice x."""
    return 2 * x
'''


def written(folder: Path, source: str, name: str = "module.py") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(source, encoding="utf-8")
    return code_fingerprint(package=folder)


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("Twice x.", "x and x again.", True),
        ("A module.", "Another word for it.", True),
        ('    """Twice x."""\n', '    """Twice x."""\n    # a comment\n\n', True),
        ("2 * x", "( 2 * x )", True),
        ("2 * x", "3 * x", False),
        ("double", "twice", False),
        ("(x)", "(x=1)", False),
    ],
)
def test_docstrings_comments_and_layout_do_not_count(old: str, new: str, same: bool, tmp_path: Path) -> None:
    changed = SOURCE.replace(old, new)
    assert changed != SOURCE
    assert (written(tmp_path / "a", SOURCE) == written(tmp_path / "b", changed)) == same


@pytest.mark.parametrize(("room", "counts"), [("cli", False), ("study", False), ("deq", True)])
def test_rooms_that_decide_nothing_do_not_count(room: str, counts: bool, tmp_path: Path) -> None:
    before = written(tmp_path, SOURCE)
    written(tmp_path / room, SOURCE)
    assert (code_fingerprint(package=tmp_path) != before) == counts
