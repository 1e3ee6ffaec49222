"""A folder is one process's own, or shared by those that agree to; nobody who was killed holds it."""

import multiprocessing
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from robustdeq.base.errors import InputError
from robustdeq.base.occupancy import alone_in, beside_others_in

Way = Callable[[Path], AbstractContextManager[None]]


@pytest.mark.parametrize("first", [alone_in, beside_others_in])
@pytest.mark.parametrize("second", [alone_in, beside_others_in])
def test_only_those_that_share_work_in_a_folder_at_once(first: Way, second: Way, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    with first(folder):
        if first is second is beside_others_in:
            with second(folder):
                pass
        else:
            said = f"another process works in {folder}; wait until it has ended"
            with pytest.raises(InputError, match=said), second(folder):
                pass
    with second(folder):
        assert [*folder.iterdir()] == []


def test_killed_process_holds_nothing_and_a_moved_folder_is_held(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    held, before, after = fork.Event(), tmp_path / "before", tmp_path / "after"

    def work() -> None:
        with alone_in(before):
            held.set()
            time.sleep(600)

    process = fork.Process(target=work)
    process.start()
    try:
        assert held.wait(60)
        before.rename(after)
        with pytest.raises(InputError, match="another process"), alone_in(after):
            pass
    finally:
        process.kill()
        process.join()
    with alone_in(after):
        pass


def test_place_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=r"cannot be opened .*; choose another --output"), alone_in(place):
            pass
    assert (tmp_path / "file").read_text() == "mine"
