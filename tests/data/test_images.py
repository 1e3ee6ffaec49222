"""`Images`: integers inside, [0, 1] outside, one gather per batch, provenance."""

import pytest
import torch
from torch.utils.data import DataLoader

from robustdeq.base.errors import InputError
from robustdeq.data import Images, as_batch


def images(n=10, channels=3, size=4, scale=255):
    generator = torch.Generator().manual_seed(0)
    return Images(
        pixels=torch.randint(scale + 1, (n, channels, size, size), generator=generator).to(torch.uint8),
        labels=torch.arange(n) % 3,
        classes=("a", "b", "c"),
        source="made up",
        scale=scale,
    )


@pytest.mark.parametrize("scale", [16, 255])
def test_tensors_are_unit_floats_that_give_the_integers_back(scale):
    some = images(scale=scale)
    x, y = some.tensors()
    assert x.dtype == torch.float32 and x.min() >= 0 and x.max() <= 1
    assert torch.equal((x * scale).round().to(torch.uint8), some.pixels)
    assert torch.equal(y, some.labels)


def test_full_intensity_is_exactly_one():
    white = Images(torch.full((1, 1, 2, 2), 16, dtype=torch.uint8), torch.tensor([0]), ("0",), "white", scale=16)
    assert torch.equal(white.tensors()[0], torch.ones(1, 1, 2, 2))


def test_one_item_is_a_row_of_the_tensors():
    some = images()
    x, y = some.tensors()
    assert torch.equal(some[3][0], x[3]) and some[3][1] == y[3]


def test_iteration_ends_at_the_last_image():
    assert len(list(images(n=4))) == 4


@pytest.mark.parametrize("workers", [0, 1])
def test_loader_batches_are_gathers(workers):
    some = images()
    x, y = some.tensors()
    batches = list(DataLoader(some, batch_size=4, collate_fn=as_batch, num_workers=workers))
    assert [len(labels) for _, labels in batches] == [4, 4, 2]
    assert torch.equal(torch.cat([pixels for pixels, _ in batches]), x)
    assert torch.equal(torch.cat([labels for _, labels in batches]), y)


@pytest.mark.parametrize("indices", [[4, 1], torch.tensor([4, 1]), range(4, 0, -3)])
def test_subset_keeps_the_order_asked_for(indices):
    some = images()
    chosen = some.subset(indices, part="two of them")
    assert torch.equal(chosen.pixels, some.pixels[[4, 1]]) and torch.equal(chosen.labels, some.labels[[4, 1]])
    assert chosen.source == "made up, two of them"
    assert (chosen.classes, chosen.scale) == (some.classes, some.scale)


def test_head_is_a_view_and_says_so_in_the_source():
    some = images()
    first = some.head(2)
    assert first.pixels.data_ptr() == some.pixels.data_ptr()
    assert (len(first), first.source) == (2, "made up, first 2 of 10")
    assert some.head(99) is some


def test_fingerprint_depends_on_every_pixel_label_shape_and_scale_but_not_on_the_source():
    some = images()
    pixels, labels = some.pixels.clone(), some.labels.clone()
    pixels[-1, -1, -1, -1] ^= 1
    labels[0] = 2
    others = [
        Images(pixels, some.labels, some.classes, some.source),
        Images(some.pixels, labels, some.classes, some.source),
        Images(some.pixels.view(10, 3, 2, 8), some.labels, some.classes, some.source),
        Images(some.pixels, some.labels, some.classes, some.source, scale=16),
    ]
    assert len({some.fingerprint(), *(other.fingerprint() for other in others)}) == 5
    assert some.subset(list(range(10)), part="all").fingerprint() == some.fingerprint()


def test_fingerprint_does_not_depend_on_memory_layout():
    some = images()
    strided = Images(some.pixels.to(memory_format=torch.channels_last), some.labels, some.classes, some.source)
    assert strided.fingerprint() == some.fingerprint()


@pytest.mark.parametrize("label", [-1, 3])
def test_label_without_a_class_is_refused(label):
    some = images(n=2)
    with pytest.raises(InputError, match=rf"^made up has the label {label}, outside 0\.\.2: remove .*\.$"):
        Images(some.pixels, torch.tensor([0, label]), some.classes, some.source)


def test_one_label_per_image(unchecked):
    some = images(n=2)
    with pytest.raises(InputError, match=r"^made up has 2 images but 1 labels: give one label per image\.$"):
        Images(some.pixels, some.labels[:1], some.classes, some.source)


def test_repr_is_one_short_line():
    assert repr(images()) == "Images(classes=('a', 'b', 'c'), source='made up', scale=255)"


def test_head_of_nothing_is_refused():
    with pytest.raises(InputError, match=r"^Cannot take the first 0 images of made up: ask for at least 1\.$"):
        images().head(0)
