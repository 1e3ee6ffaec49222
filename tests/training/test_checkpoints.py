"""What a checkpoint holds, and that it is that or nothing."""

import hashlib
import io
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from runs import CPU, digits, everything, fit, model

from disk import small_disk
from robustdeq.base.errors import InputError
from robustdeq.training.checkpoints import SealedCheckpoints, newest

SEAL = b"robustdeq checkpoint, sha-256 "
CONTENT = {"a": torch.arange(100), "b": {"c": 1.5}}


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sealed") / "step=3.ckpt"
    SealedCheckpoints().save_checkpoint(CONTENT, path)
    return path


def test_contents_come_back(sealed: Path) -> None:
    found = SealedCheckpoints().load_checkpoint(sealed)
    assert torch.equal(found["a"], CONTENT["a"])
    assert found["b"] == CONTENT["b"]
    assert newest(sealed.parent) == (sealed, [])


@given(st.data())
def test_any_damage_is_noticed(sealed: Path, data: st.DataObject) -> None:
    content = sealed.read_bytes()
    position = data.draw(st.integers(0, len(content) - 1))
    flipped = bytes([content[position] ^ (1 << data.draw(st.integers(0, 7)))])
    damaged = data.draw(st.sampled_from([content[:position], content[:position] + flipped + content[position + 1 :]]))
    broken = sealed.parent / "damaged" / "step=4.ckpt"
    broken.parent.mkdir(exist_ok=True)
    broken.write_bytes(damaged)
    with pytest.raises(InputError, match=r"step=4\.ckpt is damaged or cut short"):
        SealedCheckpoints().load_checkpoint(broken)
    assert newest(broken.parent) == (None, [broken])


def test_newest_is_by_number_and_other_files_are_no_checkpoints(tmp_path: Path) -> None:
    for name in ("step=9.ckpt", "step=10.ckpt", ".step=11.ckpt.abc.ckpt", "step=12-v1.ckpt", "last.ckpt"):
        SealedCheckpoints().save_checkpoint(CONTENT, tmp_path / name)
    assert newest(tmp_path) == (tmp_path / "step=10.ckpt", [])
    assert newest(tmp_path / "missing") == (None, [])


class Malicious:
    def __init__(self, victim: Path) -> None:
        self._victim = victim

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self._victim),)


def test_code_is_refused_and_not_run(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"state_dict": Malicious(tmp_path / "ran")}, buffer)
    body = buffer.getvalue()
    path = tmp_path / "step=1.ckpt"
    path.write_bytes(body + SEAL + hashlib.sha256(body).digest())
    with pytest.raises(InputError, match=r"step=1\.ckpt holds something else than tensors and plain values; delete it"):
        SealedCheckpoints().load_checkpoint(path, weights_only=False)
    assert not (tmp_path / "ran").exists()


def test_full_disk_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    path = tmp_path / "step=1.ckpt"
    SealedCheckpoints().save_checkpoint(CONTENT, path)
    large = {"a": torch.zeros(10_000)}
    for target in (path, tmp_path / "step=2.ckpt"):
        with small_disk(), pytest.raises(OSError, match="File too large"):
            SealedCheckpoints().save_checkpoint(large, target)
    assert [found.name for found in tmp_path.iterdir()] == ["step=1.ckpt"]
    assert newest(tmp_path) == (path, [])


def test_checkpoint_of_a_run_holds_all_that_decides_how_it_goes_on(tmp_path: Path) -> None:
    fit(model(), digits(70), everything(), tmp_path, hardware=CPU)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"step=6.ckpt", "step=9.ckpt"}
    found = SealedCheckpoints().load_checkpoint(tmp_path / "checkpoints" / "step=6.ckpt")
    names = {f"model.{name}" for name in model().state_dict()}
    assert found["global_step"] == 6
    assert names == set(found["state_dict"]) == set(found["current_model_state"])
    assert any(not torch.equal(found["state_dict"][name], found["current_model_state"][name]) for name in names)
    assert found["averaging_state"]["n_averaged"] == 6
    assert all(state["step"] == 6 for state in found["optimizer_states"][0]["state"].values())
    assert found["lr_schedulers"][0]["last_epoch"] == 6
    assert found["loops"]["fit_loop"]["state_dict"]["combined_loader"][0]["drawn"] == 6
    best = found["callbacks"]["KeepBest"]
    assert [entry["step"] for entry in best["history"]] == [3, 6]
    assert best["best"] == max(entry["robust"] for entry in best["history"])
    assert {f"model.{name}" for name in best["weights"]} == names
    assert found["callbacks"]["OverfittingGuard"].keys() == {"best", "looked", "good", "reverted"}
    assert found["callbacks"]["OverfittingGuard"]["looked"] == 4
