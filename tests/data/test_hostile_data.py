"""Data of strangers: a file starts no program, takes no more memory than is said, and ends in data or one sentence."""

import io
import json
import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import PIL.EpsImagePlugin
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robustdeq.base.errors import InputError
from robustdeq.data import decoding, load

PIL.Image.init()
AVIF = "AVIF" in PIL.Image.SAVE


def encoded(kind: str, size: tuple[int, int] = (4, 4), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new(mode, size).save(buffer, kind)
    return buffer.getvalue()


def table(path: Path, images: list[Any], **columns: Any) -> Path:
    pq.write_table(pa.table({"image": images, "label": [i % 2 for i in range(len(images))]} | columns), path)
    return path


@pytest.mark.parametrize(
    "kind", ["EPS", "DDS", "ICO", "TGA", pytest.param("AVIF", marks=pytest.mark.skipif(not AVIF, reason="no AVIF"))]
)
def test_only_the_named_formats_are_opened_and_no_program_is_started(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ghostscript, ran = tmp_path / "gs", tmp_path / "ran"
    ghostscript.write_text(f"#!/bin/sh\ntouch {ran}\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(PIL.EpsImagePlugin, "gs_binary", None)
    image = encoded(kind)
    with pytest.raises(InputError, match=r"row 0 cannot be read as an image: replace or remove it\.$"):
        load(table(tmp_path / "test.parquet", [image]))
    assert not ran.exists()


@pytest.mark.parametrize("kind", ["BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP"])
def test_the_named_formats_are_read(kind: str, tmp_path: Path) -> None:
    images = load(table(tmp_path / "test.parquet", [encoded(kind)] * 2)).require("test")
    assert images.pixels.shape == (2, 3, 4, 4) and not images.pixels.any()


def test_image_is_refused_by_the_size_in_its_header(tmp_path: Path) -> None:
    large = encoded("PNG", (4097, 4096), "L")
    cut = large[:2000]  # so that whoever decoded it would fail otherwise
    with pytest.raises(InputError, match=r"row 0 has 4097×4096 pixels, too many to be read: make it smaller\.$"):
        load(table(tmp_path / "test.parquet", [cut]))


def test_set_of_images_is_refused_before_it_is_allocated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = encoded("PPM", (40, 40))
    monkeypatch.setattr(decoding, "MOST_BYTES", 3 * 4800)
    path = table(tmp_path / "test.parquet", [image] * 3)
    assert len(load(path).require("test")) == 3
    with pytest.raises(InputError, match=r"^4 images such as .* row 0 take .* GiB, more than 0: give fewer"):
        load(table(path, [image] * 4))


def test_columns_that_are_not_needed_are_not_read(tmp_path: Path) -> None:
    junk = [os.urandom(4000).hex()] * 2
    path = table(tmp_path / "test.parquet", [encoded("PNG")] * 2, junk=junk)
    content = path.read_bytes()
    place = content.index(junk[0].encode()[100:200])
    path.write_bytes(content[:place] + b"?" * 100 + content[place + 100 :])
    assert len(load(path).require("test")) == 2
    metadata = pq.read_metadata(path).row_group(0)
    start = next(c.dictionary_page_offset for c in map(metadata.column, range(3)) if c.path_in_schema == "junk")
    path.write_bytes(content[:start] + b"\xff" * 16 + content[start + 16 :])
    with pytest.raises(Exception):  # noqa: B017
        pq.read_table(path)
    assert len(load(path).require("test")) == 2


@pytest.mark.parametrize("image", [{"bytes": {"a": 1}}, {"bytes": 3}, {"bytes": "text", "path": "x"}, {"bytes": None}])
def test_struct_that_holds_no_image_is_refused(image: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"row 0 holds (no|something else than an) image: remove the row\.$"):
        load(table(tmp_path / "test.parquet", [image]))


@pytest.mark.parametrize("kind", [{"num_classes": 10**12}, {"names_file": "/etc/hostname"}])
def test_class_names_come_from_the_file_itself(kind: dict[str, Any], tmp_path: Path) -> None:
    plain = pa.table({"image": [encoded("PNG")], "label": [0]})
    features = {"label": kind | {"_type": "ClassLabel"}, "image": {"_type": "Image"}}
    said = json.dumps({"info": {"features": features}}).encode()
    pq.write_table(plain.replace_schema_metadata({"huggingface": said}), tmp_path / "test.parquet")
    with pytest.raises(InputError, match=r"cannot be read as a parquet file: replace it with an intact one\.$"):
        load(tmp_path / "test.parquet")


def test_pipes_and_sockets_are_no_data(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(encoded("PNG"))
    os.mkfifo(tmp_path / "cat" / "0.png")
    with socket.socket(socket.AF_UNIX) as end:
        place = Path.cwd()
        os.chdir(tmp_path / "dog")  # the path of a socket must be short
        end.bind("0.png")
        os.chdir(place)
    os.mkfifo(tmp_path / "train.parquet")
    assert len(load(tmp_path).require("train")) == 2
    os.mkfifo(tmp_path / "x.npz")
    for path in (tmp_path / "train.parquet", tmp_path / "x.npz", Path("/dev/zero")):
        with pytest.raises(InputError, match=r"is a pipe, a socket or a device: give a file\.$"):
            load(path)
    with pytest.raises(InputError, match=r"0.png is a pipe, a socket or a device: give a file\.$"):
        row = {"bytes": None, "path": str(tmp_path / "cat" / "0.png")}
        load(table(tmp_path / "test.parquet", [row]))


def test_arrays_are_refused_before_they_are_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = {"x_test": np.zeros((9, 300)), "y_test": np.zeros(9, int)}
    np.savez_compressed(tmp_path / "own.npz", **arrays, unused=np.zeros(10**5))
    assert len(load(tmp_path / "own.npz").require("test")) == 9
    monkeypatch.setattr(decoding, "MOST_BYTES", 9 * 300 * 8)
    with pytest.raises(InputError, match=r"^the arrays in .*own.npz take .* GiB, more than 0"):
        load(tmp_path / "own.npz")


def test_labels_and_class_names_of_arrays_make_sense(tmp_path: Path) -> None:
    x = np.zeros((2, 3))
    np.savez(tmp_path / "own.npz", x_test=x, y_test=np.array([0, 2**62]))
    with pytest.raises(InputError, match=r"^own.npz test has the label 4611686018427387904; number the classes from 0"):
        load(tmp_path / "own.npz")
    np.savez(tmp_path / "own.npz", x_test=x, y_test=np.array([0, 0]), classes=np.array("only"))
    assert load(tmp_path / "own.npz").require("test").classes == ("only",)
