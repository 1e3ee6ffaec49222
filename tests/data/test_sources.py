"""`load`: names, hub ids, parquet files and folders, to the pixel; and one sentence for whatever is wrong with them."""

import io
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import PIL.Image
import pyarrow.parquet as pq
import pytest
import torch

from robustdeq.base.errors import InputError
from robustdeq.data import Images, load, sources

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10"
CLASSES = ["cat", "dog", "owl"]


def pixels_of(n, seed=0, size=(5, 4), channels=3):
    shape = (n, *size, channels) if channels > 1 else (n, *size)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png(array):
    buffer = io.BytesIO()
    PIL.Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def hub_table(pixels, labels, columns=("img", "label"), names=CLASSES):
    image, label = columns
    features = datasets.Features({image: datasets.Image(), label: datasets.ClassLabel(names=list(names))})
    return datasets.Dataset.from_dict({image: list(map(PIL.Image.fromarray, pixels)), label: labels}, features=features)


def write_parquet(path, pixels, **columns):
    """A parquet file as `datasets` writes it."""
    labels = columns.pop("labels", [i % 3 for i in range(len(pixels))])
    hub_table(pixels, labels, **columns).to_parquet(path)
    return pixels


def write_frame(path, **columns):
    """A parquet file without any Hugging Face metadata."""
    pd.DataFrame(columns).to_parquet(path)


def write_images(folder, pixels, suffix="png"):
    folder.mkdir(parents=True)
    for i, array in enumerate(pixels):
        PIL.Image.fromarray(array).save(folder / f"{i:03}.{suffix}")


def same(images, pixels):
    array = pixels.transpose(0, 3, 1, 2) if pixels.ndim == 4 else pixels[:, None]
    return images.pixels.shape == array.shape and torch.equal(images.pixels, torch.from_numpy(array.copy()))


def refusal(source):
    with pytest.raises(InputError) as caught:
        load(source)
    sentence = str(caught.value)
    assert sentence.endswith(".") and "\n" not in sentence
    return sentence


# One parquet file


def test_training_file_is_exact_and_its_end_is_the_development_split(tmp_path):
    pixels = write_parquet(tmp_path / "anything.parquet", pixels_of(30))
    splits = load(tmp_path / "anything.parquet")
    train, development = splits.require("train"), splits.require("development")
    assert same(train, pixels[:27]) and same(development, pixels[27:]) and splits.test is None
    assert train.labels.tolist() == [i % 3 for i in range(27)]
    assert train.classes == tuple(CLASSES)
    assert train.source == f"{tmp_path.name}/anything.parquet, first 27 of 30"


@pytest.mark.parametrize("name", ["test", "test-exact", "validation", "val-00000-of-00003", "Test"])
def test_file_named_for_evaluation_is_the_test_split(tmp_path, name):
    pixels = write_parquet(tmp_path / f"{name}.parquet", pixels_of(30))
    splits = load(str(tmp_path / f"{name}.parquet"))
    assert same(splits.require("test"), pixels) and splits.train is None and splits.development is None


def test_greyscale_has_one_channel(tmp_path):
    pixels = write_parquet(tmp_path / "test.parquet", pixels_of(3, channels=1))
    assert same(load(tmp_path / "test.parquet").require("test"), pixels)


@pytest.mark.parametrize("wrap", [lambda b: b, lambda b: {"bytes": b, "path": None}])
def test_columns_are_found_by_type_without_metadata(tmp_path, wrap):
    pixels = pixels_of(4)
    write_frame(tmp_path / "test.parquet", note=list("abcd"), y=[0, 2, 1, 0], pic=[wrap(png(p)) for p in pixels])
    test = load(tmp_path / "test.parquet").require("test")
    assert same(test, pixels) and test.labels.tolist() == [0, 2, 1, 0] and test.classes == ("0", "1", "2")


@pytest.mark.parametrize("name", [None, "number"])
def test_the_index_of_a_frame_is_no_feature(tmp_path, name):
    frame = pd.DataFrame(
        {"a": [0.1, 0.2, 0.3], "b": [1.0, 2.0, 3.0], "label": [0, 1, 1]}, pd.Index([7, 8, 9], name=name)
    )
    frame.to_parquet(tmp_path / "test.parquet")
    test = load(tmp_path / "test.parquet").require("test")
    np.testing.assert_allclose(test.tensors()[0], frame[["a", "b"]], rtol=1e-6)


@pytest.mark.parametrize("labels", [["setosa", "virginica"], [0.0, 1.0]])
def test_labels_of_numbers_are_integers(tmp_path, labels):
    write_frame(tmp_path / "test.parquet", a=[0.1, 0.2], label=labels)
    assert "number the classes from 0" in refusal(tmp_path / "test.parquet")


def test_images_may_be_paths(tmp_path):
    pixels = pixels_of(2)
    write_images(tmp_path / "pictures", pixels)
    rows = [{"bytes": None, "path": str(tmp_path / "pictures" / f"00{i}.png")} for i in range(2)]
    write_frame(tmp_path / "test.parquet", image=rows, label=[0, 1])
    assert same(load(tmp_path / "test.parquet").require("test"), pixels)


def test_the_usual_names_win_where_several_columns_fit(tmp_path):
    pixels = pixels_of(2)
    write_frame(
        tmp_path / "test.parquet",
        coarse_label=[5, 5],
        fine_label=[1, 0],
        img=[png(p) for p in pixels],
        mask=[png(p) for p in pixels_of(2, seed=1)],
    )
    test = load(tmp_path / "test.parquet").require("test")
    assert same(test, pixels) and test.labels.tolist() == [1, 0]


# A folder of parquet files


def test_alternatives_are_never_concatenated_and_the_source_names_the_largest(tmp_path):
    write_parquet(tmp_path / "train-exact.parquet", pixels_of(12))
    pixels = write_parquet(tmp_path / "train-jpeg.parquet", pixels_of(20, seed=1))
    held = write_parquet(tmp_path / "test-exact.parquet", pixels_of(6, seed=2))
    splits = load(tmp_path)
    assert same(splits.require("train"), pixels[:18]) and same(splits.require("development"), pixels[18:])
    assert splits.require("train").source == f"{tmp_path.name}/train-jpeg.parquet, first 18 of 20"
    assert same(splits.require("test"), held)
    assert splits.require("test").source == f"{tmp_path.name}/test-exact.parquet"


def test_shards_are_joined_in_order(tmp_path):
    shards = [pixels_of(4, seed=seed) for seed in range(3)]
    for i, shard in enumerate(shards):
        write_parquet(tmp_path / f"test-{i:05}-of-00003.parquet", shard)
    write_parquet(tmp_path / "test-small.parquet", pixels_of(5))
    test = load(tmp_path).require("test")
    assert same(test, np.concatenate(shards)) and test.source == f"{tmp_path.name}/test-*-of-00003.parquet"


def test_a_missing_shard_is_noticed(tmp_path):
    write_parquet(tmp_path / "train-00001-of-00003.parquet", pixels_of(4))
    assert refusal(tmp_path) == (
        f"{tmp_path.name}/train-*-of-00003.parquet has only 1 of its 3 shards: add the others."
    )


def test_validation_and_test_files_are_development_and_test(tmp_path):
    pixels = {name: write_parquet(tmp_path / f"{name}.parquet", pixels_of(20, seed=i))
              for i, name in enumerate(["train", "validation", "test"])}  # fmt: skip
    splits = load(tmp_path)
    assert same(splits.require("train"), pixels["train"])
    assert same(splits.require("development"), pixels["validation"])
    assert same(splits.require("test"), pixels["test"])


def test_files_without_a_role_count_only_where_none_has_one(tmp_path):
    extra = write_parquet(tmp_path / "extra.parquet", pixels_of(9, seed=1))
    assert same(load(tmp_path).require("train"), extra)
    train = write_parquet(tmp_path / "train.parquet", pixels_of(3))
    assert same(load(tmp_path).require("train"), train)


def test_a_relative_path_has_a_full_source(tmp_path, monkeypatch):
    write_parquet(tmp_path / "test.parquet", pixels_of(3))
    monkeypatch.chdir(tmp_path)
    assert load("test.parquet").require("test").source == load(".").require("test").source
    assert load(".").require("test").source == f"{tmp_path.name}/test.parquet"


# A folder of class folders


def test_class_folders_under_train_and_test(tmp_path):
    parts = {(split, name): pixels_of(10, seed=i) for i, (split, name) in enumerate(
        [("train", "cat"), ("train", "owl"), ("test", "owl")])}  # fmt: skip
    for (split, name), pixels in parts.items():
        write_images(tmp_path / split / name, pixels)
    splits = load(tmp_path)
    train, development, test = (splits.require(role) for role in ("train", "development", "test"))
    assert train.classes == test.classes == ("cat", "owl")
    assert same(test, parts["test", "owl"]) and test.labels.tolist() == [1] * 10
    assert test.source == f"{tmp_path.name}/test"
    assert (len(train), development.labels.tolist().count(0), len(development)) == (18, 1, 2)


def test_class_folders_alone_are_training_images(tmp_path):
    pixels = {name: pixels_of(3, seed=i, channels=1) for i, name in enumerate(["owl", "cat"])}
    for name in pixels:
        write_images(tmp_path / name, pixels[name])
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / ".cache").mkdir()
    splits = load(tmp_path)
    train = splits.require("train")
    assert same(train, np.concatenate([pixels["cat"], pixels["owl"]]))
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1] and train.classes == ("cat", "owl")
    assert splits.test is None and train.source == f"{tmp_path.parent.name}/{tmp_path.name}"


def test_a_split_folder_without_images_is_a_missing_split(tmp_path):
    (tmp_path / "train" / "cat").mkdir(parents=True)
    write_images(tmp_path / "test" / "cat", pixels_of(2))
    splits = load(tmp_path)
    assert splits.train is None and len(splits.require("test")) == 2


def test_a_class_may_be_called_train(tmp_path):
    for name in ("car", "train"):
        write_images(tmp_path / name, pixels_of(2))
    assert load(tmp_path).require("train").classes == ("car", "train")


# The hub


@pytest.fixture
def hub(monkeypatch):
    """`datasets.load_dataset`, answering from memory; what it was asked for is in `asked`."""

    class Hub:
        def __init__(self):
            self.answers, self.asked = {}, []

        def load_dataset(self, path, name=None):
            self.asked.append((path, name))
            if path not in self.answers:
                raise ConnectionError(f"Couldn't reach '{path}' on the Hub.\nTried 5 times.")
            return datasets.DatasetDict(self.answers[path])

    fake = Hub()
    monkeypatch.setattr(datasets, "load_dataset", fake.load_dataset)
    return fake


@pytest.mark.parametrize(
    ("name", "hub_id", "config", "columns", "channels"),
    [
        ("svhn", "ufldl-stanford/svhn", "cropped_digits", ("image", "label"), 3),
        ("fashion_mnist", "zalando-datasets/fashion_mnist", None, ("image", "label"), 1),
        ("someone/birds.v2", "someone/birds.v2", None, ("photo", "species"), 3),
    ],
)
def test_named_datasets_come_from_the_hub(hub, name, hub_id, config, columns, channels):
    train, test = pixels_of(20, channels=channels), pixels_of(4, seed=1, channels=channels)
    labels = [i % 3 for i in range(20)]
    hub.answers[hub_id] = {
        "train": hub_table(train, labels, columns),
        "test": hub_table(test, labels[:4], columns),
        "extra": hub_table(test, labels[:4], columns),
    }
    splits = load(name)
    assert hub.asked == [(hub_id, config)]
    assert same(splits.require("train"), train[:18]) and same(splits.require("development"), train[18:])
    assert same(splits.require("test"), test) and splits.require("test").labels.tolist() == labels[:4]
    assert splits.require("test").classes == tuple(CLASSES)
    assert splits.require("test").source == f"{hub_id} test"


@pytest.fixture
def known(monkeypatch):
    """Thirty-two images that stand for CIFAR-10's test split, of which the first twenty are known."""
    pixels, labels = pixels_of(32, seed=3), [i % 3 for i in range(32)]
    first = Images(
        torch.from_numpy(pixels[:20].transpose(0, 3, 1, 2).copy()), torch.tensor(labels[:20]), tuple(CLASSES), ""
    )
    monkeypatch.setattr(sources, "FIRST", (20, first.fingerprint()))
    return pixels, labels


def encoded_again(array):
    buffer = io.BytesIO()
    PIL.Image.fromarray(array).save(buffer, "JPEG", quality=100)
    return np.asarray(PIL.Image.open(buffer))


def test_cifar10_of_the_hub_begins_with_the_images_that_are_known(hub, known):
    pixels, labels = known
    hub.answers["uoft-cs/cifar10"] = {"test": hub_table(pixels, labels)}
    test = load("cifar10").require("test")
    assert hub.asked == [("uoft-cs/cifar10", None)]
    assert same(test, pixels) and test.source == "uoft-cs/cifar10 test"
    assert test.head(20).fingerprint() == sources.FIRST[1]


@pytest.mark.parametrize(
    "change",
    [
        lambda pixels, labels: (np.stack([encoded_again(pixels[0]), *pixels[1:]]), labels),
        lambda pixels, labels: (
            np.stack([*pixels[:19], pixels[19] ^ np.eye(5, 4, dtype=np.uint8)[..., None]]),
            labels[:20],
        ),
        lambda pixels, labels: (pixels, [1, *labels[1:]]),
        lambda pixels, labels: (pixels[::-1], labels[::-1]),
        lambda pixels, labels: (pixels[1:], labels[1:]),
        lambda pixels, labels: (pixels[:19], labels[:19]),
    ],
    ids=["encoded again", "a last bit", "a label", "another order", "one left out", "too few"],
)
@pytest.mark.parametrize("where", ["hub", "file"])
def test_others_under_the_name_of_cifar10_are_refused(hub, known, tmp_path, change, where):
    pixels, labels = change(*known)
    hub.answers["uoft-cs/cifar10"] = {"test": hub_table(pixels, labels)}
    (tmp_path / "cifar10").mkdir()
    file = tmp_path / "cifar10" / "test-exact.parquet"
    write_parquet(file, pixels, labels=labels)
    asked, source = {"hub": ("cifar10", "uoft-cs/cifar10 test"), "file": (file, "cifar10/test-exact.parquet")}[where]
    sentence = refusal(asked)
    assert sentence.startswith(f"{source} does not begin with the first 20 test images of CIFAR-10 (SHA-256 ")
    assert sentence.endswith(f", not {sources.FIRST[1]}): give a copy in their order and not encoded again.")


def test_cifar100_has_its_fine_labels(hub):
    pixels = pixels_of(6)
    table = hub_table(pixels, [0, 1, 2] * 2, ("img", "fine_label"))
    table = table.add_column("coarse_label", [0] * 6)
    hub.answers["uoft-cs/cifar100"] = {"train": table, "test": table}
    test = load("cifar100").require("test")
    assert test.labels.tolist() == [0, 1, 2] * 2 and test.classes == tuple(CLASSES)


def test_a_selection_of_a_hub_split_keeps_its_order(hub):
    pixels = pixels_of(6)
    hub.answers["a/b"] = {"test": hub_table(pixels, [0, 1, 2] * 2).select([5, 0])}
    assert same(load("a/b").require("test"), pixels[[5, 0]])


@pytest.mark.parametrize(("name", "hub_id"), [("cifar10", "uoft-cs/cifar10"), ("a/b", "a/b")])
def test_an_unreachable_hub_is_one_sentence(hub, name, hub_id):
    assert refusal(name) == (
        f"Cannot load '{hub_id}' from the Hugging Face hub (Couldn't reach '{hub_id}' on the Hub. Tried 5 times): "
        "pass a local parquet file or folder, or --data digits."
    )


# What cannot be loaded


@pytest.mark.parametrize("name", ["cifr10", "no/such/folder", "./gone", "gone.parquet", "no/gone.parquet"])
def test_unknown_name_or_missing_path(name, hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "no").mkdir()
    assert refusal(name) == (
        f"There is no data '{name}': give one of digits, cifar10, cifar100, svhn, fashion_mnist, a Hugging Face id "
        "'owner/name', the path of an existing parquet or .npz file or folder, or FILE.py:NAME of a function."
    )
    assert hub.asked == []


@pytest.mark.parametrize("path", [Path("owner/name"), "owner/name.parquet"])
def test_a_missing_path_is_never_looked_for_on_the_hub(hub, path):
    assert refusal(path).startswith(f"There is no data '{path}':")
    assert hub.asked == []


@pytest.mark.parametrize(
    "damage", [lambda b: b"", lambda b: b"hello", lambda b: b[:-9], lambda b: b[:4] + b"\0" * 900 + b[904:]]
)
def test_damaged_parquet(tmp_path, damage):
    file = tmp_path / "train.parquet"
    write_parquet(file, pixels_of(12))
    file.write_bytes(damage(file.read_bytes()))
    expected = "cannot be read as a parquet file: replace it with an intact one."
    assert refusal(file) == f"{tmp_path.name}/train.parquet {expected}"
    assert refusal(tmp_path).endswith(f"{tmp_path.name}/train.parquet {expected}")


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"label": [0, 1]}, "{0} has no image column: add one called 'image'."),
        ({"image": [b"x", b"y"]}, "{0} has no integer label column: add one called 'label'."),
        ({"image": [b"x"], "label": ["cat"]}, "{0} has no integer label column: add one called 'label'."),
        ({"a": [b"x"], "b": [b"x"], "label": [0]}, "{0} has several image columns (a, b): call the right one 'image'."),
        (
            {"image": [b"x"], "a": [0], "b": [0]},
            "{0} has several integer label columns (a, b): call the right one 'label'.",
        ),
        (
            {"image": [png(pixels_of(1)[0])] * 2, "label": [0, -1]},
            "{0} row 1 has the label -1: remove unlabelled rows and number the classes from 0.",
        ),
        (
            {"image": [png(pixels_of(1)[0])] * 2, "label": pd.array([None, 1], dtype="Int64")},
            "{0} row 0 has the label None: remove unlabelled rows and number the classes from 0.",
        ),
        (
            {"image": [png(pixels_of(1)[0])], "label": [2**40]},
            "{0} row 0 has the label 1099511627776: remove unlabelled rows and number the classes from 0.",
        ),
        ({"image": [png(pixels_of(1)[0]), None], "label": [0, 1]}, "{0} row 1 holds no image: remove the row."),
        (
            {"image": [{"bytes": None, "path": "gone.png"}], "label": [0]},
            "{0} row 0 cannot be read as an image: replace or remove it.",
        ),
        (
            {"image": [png(pixels_of(1)[0]), png(pixels_of(1)[0])[:-40]], "label": [0, 1]},
            "{0} row 1 cannot be read as an image: replace or remove it.",
        ),
        (
            {"image": [png(pixels_of(1)[0]), png(pixels_of(1, size=(6, 6))[0])], "label": [0, 1]},
            "{0} row 1 is 3×6×6 but {0} row 0 is 3×5×4: bring all images to one size and mode.",
        ),
        (
            {"image": [png(pixels_of(1, channels=4)[0])], "label": [0]},
            "{0} row 0 has the mode RGBA: convert it to 8-bit greyscale (L) or RGB.",
        ),
    ],
)
def test_unusable_rows_and_columns(tmp_path, columns, sentence):
    write_frame(tmp_path / "test.parquet", **columns)
    assert refusal(tmp_path / "test.parquet") == sentence.format(f"{tmp_path.name}/test.parquet")


def test_a_label_beyond_the_named_classes(tmp_path):
    table = hub_table(pixels_of(2), [0, 1], names=["cat", "dog"]).data.table
    table = table.set_column(1, "label", [[0, 2]])
    pq.write_table(table, tmp_path / "test.parquet")
    assert refusal(tmp_path / "test.parquet") == (
        f"{tmp_path.name}/test.parquet has the label 2, outside 0..1: "
        "remove unlabelled images and number the classes from 0."
    )


def test_a_parquet_file_without_rows(tmp_path):
    pq.write_table(hub_table(pixels_of(2), [0, 1]).data.table.slice(0, 0), tmp_path / "test.parquet")
    assert refusal(tmp_path / "test.parquet") == f"{tmp_path.name}/test.parquet holds no rows: give a file with images."


def test_a_folder_with_nothing_to_read(tmp_path):
    (tmp_path / "cat").mkdir()
    assert refusal(tmp_path) == (
        f"{tmp_path} holds neither *.parquet files nor <class>/*.png images: point to the folder that does."
    )


def test_a_file_that_is_no_image_and_images_of_two_sizes_in_a_folder(tmp_path):
    write_images(tmp_path / "cat", pixels_of(2))
    write_images(tmp_path / "dog", pixels_of(1, size=(6, 6)))
    assert refusal(tmp_path) == (
        f"{tmp_path}/dog/000.png is 3×6×6 but {tmp_path}/cat/000.png is 3×5×4: bring all images to one size and mode."
    )
    (tmp_path / "cat" / "001.png").write_bytes(b"no image")
    assert refusal(tmp_path) == f"{tmp_path}/cat/001.png cannot be read as an image: replace or remove it."


# The real files


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the CIFAR-10 files are not in {REAL}")
def test_real_cifar10():
    splits = load(REAL)
    train, development, test = (splits.require(role) for role in ("train", "development", "test"))
    assert (len(train), len(development), len(test)) == (49_000, 1_000, 500)
    assert train.source == "cifar10/train-jpeg.parquet, first 49000 of 50000"
    assert development.source == "cifar10/train-jpeg.parquet, last 1000 of 50000"
    assert test.source == "cifar10/test-exact.parquet"
    assert train.pixels.shape[1:] == (3, 32, 32) and train.classes[:2] == ("airplane", "automobile")
    assert train.labels[:5].tolist() == [6, 9, 9, 4, 1] and test.labels[:5].tolist() == [3, 8, 8, 0, 6]


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the CIFAR-10 files are not in {REAL}")
def test_the_500_exact_images_are_the_first_500_of_the_hub(hub):
    kept = load(REAL / "test-exact.parquet").require("test")
    pixels, labels = kept.pixels.numpy().transpose(0, 2, 3, 1), kept.labels.tolist()
    more = hub_table(np.concatenate([pixels, pixels[:3]]), labels + labels[:3], names=kept.classes)
    hub.answers["uoft-cs/cifar10"] = {"test": more}
    first = load("cifar10").require("test").head(500)
    assert same(first, pixels) and first.fingerprint() == kept.fingerprint() == sources.FIRST[1]
    again = np.stack(list(map(encoded_again, pixels)))
    hub.answers["uoft-cs/cifar10"] = {"test": hub_table(again, labels, names=kept.classes)}
    assert "does not begin with the first 500 test images of CIFAR-10" in refusal("cifar10")
