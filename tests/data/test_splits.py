"""Holding out: disjoint, deterministic, exactly as many as asked for, and never out of the test split."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustdeq.base.errors import InputError
from robustdeq.data import Images, Splits, load
from robustdeq.data.splits import assemble, hold_out_last, hold_out_stratified


def numbered(labels, start=0, source="numbered", classes=None):
    """Images whose pixels say which they are, so that a split can be traced."""
    labels = torch.as_tensor(labels, dtype=torch.int64)
    number = torch.arange(start, start + len(labels))
    pixels = torch.stack([number // 256, number % 256], dim=1).to(torch.uint8).view(-1, 1, 1, 2)
    names = classes or tuple(map(str, range(int(labels.max()) + 1)))
    return Images(pixels, labels, names, source)


def identities(images):
    return (images.pixels[:, 0, 0, 0].long() * 256 + images.pixels[:, 0, 0, 1]).tolist()


def test_hold_out_last_is_the_last_n_in_order():
    rest, last = hold_out_last(numbered([0, 1] * 10), 3)
    assert identities(rest) == list(range(17)) and identities(last) == [17, 18, 19]
    assert (rest.source, last.source) == ("numbered, first 17 of 20", "numbered, last 3 of 20")


@settings(deadline=None)
@given(
    labels=st.lists(st.integers(0, 4), min_size=12, max_size=120),
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=2),
    seed=st.integers(0, 9),
)
def test_stratified_parts_partition_the_images_with_every_class_in_proportion(labels, sizes, seed):
    images = numbered(labels)
    parts = hold_out_stratified(images, *sizes, seed=seed)
    assert [len(part) for part in parts] == [len(images) - sum(sizes), *sizes]
    assert sorted(number for part in parts for number in identities(part)) == list(range(len(images)))
    counts = images.labels.bincount(minlength=5).double()
    for part in parts:
        assert torch.equal(part.labels, images.labels[identities(part)])
        share = counts * len(part) / len(images)
        assert ((part.labels.bincount(minlength=5) - share).abs() <= 2).all()


def test_stratified_is_deterministic_and_follows_the_seed():
    images = numbered([0, 1, 2, 3] * 25)
    first, again, other = (hold_out_stratified(images, 20, seed=seed)[1] for seed in (0, 0, 1))
    assert identities(first) == identities(again) != identities(other)
    assert "seed 1" in other.source


def test_digits_are_stratified_and_disjoint():
    digits = load("digits")
    parts = [digits.require(role) for role in ("train", "development", "test")]
    assert [len(part) for part in parts] == [1197, 200, 400]
    assert len({part.pixels[i].numpy().tobytes() for part in parts for i in range(len(part))}) == 1797
    for part in parts:
        x, _ = part.tensors()
        assert x.shape[1:] == (1, 8, 8) and x.min() == 0 and x.max() == 1
        assert (part.labels.bincount(minlength=10) / len(part) - 0.1).abs().max() < 0.01


def test_digits_never_change():
    digits = load("digits")
    assert digits.require("test").fingerprint()[:12] == "fc470714370e"
    assert digits.require("train").fingerprint()[:12] == "58a27e1ef038"


def test_development_is_the_end_of_the_training_images_and_leaves_the_test_split_alone():
    train, test = numbered([0, 1] * 50), numbered([1, 0] * 10, start=100)
    splits = assemble(train=train, test=test)
    assert identities(splits.require("development")) == list(range(90, 100))
    assert identities(splits.require("train")) == list(range(90))
    assert identities(splits.require("test")) == list(range(100, 120))


def test_at_most_a_thousand_are_held_out():
    splits = assemble(train=numbered([0, 1] * 6000))
    assert len(splits.require("development")) == 1000


def test_development_of_images_sorted_by_class_has_every_class():
    development = assemble(train=numbered([0] * 50 + [1] * 50)).require("development")
    assert development.labels.bincount().tolist() == [5, 5]
    assert "stratified" in development.source


def test_so_has_that_of_images_whose_classes_stand_together_in_any_order():
    development = assemble(train=numbered([2] * 50 + [0] * 50 + [1] * 50)).require("development")
    assert development.labels.bincount().tolist() == [5, 5, 5]


def test_fewer_than_ten_training_images_have_no_development_split():
    splits = assemble(train=numbered([0, 1, 0]))
    assert splits.development is None and len(splits.require("train")) == 3


def test_validation_is_the_test_split_only_where_no_other_is_there():
    train, validation, test = numbered([0, 1] * 10), numbered([1, 0], start=20), numbered([0, 1], start=22)
    assert identities(assemble(train=train, validation=validation).require("test")) == [20, 21]
    splits = assemble(train=train, validation=validation, test=test)
    assert identities(splits.require("train")) == list(range(20))
    assert identities(splits.require("development")) == [20, 21] and identities(splits.require("test")) == [22, 23]


def test_unnamed_classes_are_those_of_all_parts_together():
    splits = assemble(train=numbered([0, 1, 2, 0]), test=numbered([1, 0]))
    assert splits.require("test").classes == splits.require("train").classes == ("0", "1", "2")


def test_parts_that_do_not_fit_together_are_refused():
    train = numbered([0, 1], source="a", classes=("cat", "dog"))
    with pytest.raises(InputError, match=r"^b and a name their classes differently: give both the same class names\.$"):
        assemble(train=train, test=numbered([0, 1], source="b", classes=("dog", "cat")))
    large = Images(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.tensor([0]), ("cat",), "b")
    with pytest.raises(InputError, match=r"^b has 3×4×4 images but a has 1×1×2: bring them to one size\.$"):
        assemble(train=train, test=large)
    shallow = replace(train, source="b", scale=16)
    with pytest.raises(InputError, match=r"^b has the scale 16 but a 255: bring them to one\.$"):
        assemble(train=train, test=shallow)


def test_a_missing_split_is_named():
    splits = Splits(train=None, development=None, test=numbered([0, 1], source="x/test.parquet"))
    message = r"^The data has no train split, only x/test\.parquet: point --data to a source that has one\.$"
    with pytest.raises(InputError, match=message):
        splits.require("train")


@pytest.mark.parametrize("n", [0, -1, 20, 21])
def test_a_part_without_images_is_refused(n):
    sentence = rf"^Cannot hold {n} of the 20 images of numbered out: every part, and the rest, needs at least one\.$"
    for hold_out in (hold_out_last, hold_out_stratified):
        with pytest.raises(InputError, match=sentence):
            hold_out(numbered([0, 1] * 10), n)
