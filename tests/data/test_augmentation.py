"""Crop and flip: every output is a window of its own padded input, whatever the dtype, drawn once per sample."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustdeq.base.errors import InputError
from robustdeq.data import RandomCropFlip
from robustdeq.data.augmentation import crop


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def one_window(image, padding, top, left, mirrored):
    channels, height, width = image.shape
    padded = torch.zeros(channels, height + 2 * padding, width + 2 * padding, dtype=image.dtype)
    padded[:, padding : padding + height, padding : padding + width] = image
    window = padded[:, top : top + height, left : left + width]
    return window.flip(-1) if mirrored else window


@settings(deadline=None)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6)),
    padding=st.integers(0, 4),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.uint8]),
    seed=st.integers(0, 1000),
)
def test_crop_is_the_naive_loop(shape, padding, dtype, seed):
    generator = seeded(seed)
    x = torch.randint(1, 256, shape, generator=generator).to(dtype)
    top, left = torch.randint(2 * padding + 1, (2, len(x)), generator=generator)
    mirrored = torch.rand(len(x), generator=generator) < 0.5
    expected = [one_window(x[i], padding, int(top[i]), int(left[i]), bool(mirrored[i])) for i in range(len(x))]
    result = crop(x, padding, torch.stack([top, left, mirrored]))
    assert result.dtype == dtype and torch.equal(result, torch.stack(expected))


@pytest.mark.parametrize("flip", [True, False])
def test_every_output_is_a_window_and_every_window_occurs(flip):
    image = torch.arange(1.0, 13.0).view(1, 1, 3, 4)
    outputs = {tuple(x.flatten().tolist()) for x in RandomCropFlip(1, flip)(image.expand(2000, -1, -1, -1), seeded())}
    windows = {
        tuple(one_window(image[0], 1, top, left, mirrored).flatten().tolist())
        for top in range(3)
        for left in range(3)
        for mirrored in ([False, True] if flip else [False])
    }
    assert outputs == windows


def test_samples_are_drawn_independently():
    x = torch.rand(1, 3, 8, 8, generator=seeded()).expand(64, -1, -1, -1)
    assert len({tuple(image.flatten().tolist()) for image in RandomCropFlip()(x, seeded())}) > 40


def test_same_seed_same_batch():
    x = torch.rand(16, 3, 8, 8, generator=seeded())
    augment = RandomCropFlip()
    assert torch.equal(augment(x, seeded(1)), augment(x, seeded(1)))
    assert not torch.equal(augment(x, seeded(1)), augment(x, seeded(2)))


def test_drawn_first_and_cropped_later_is_the_same():
    x = torch.rand(16, 3, 8, 8, generator=seeded())
    augment = RandomCropFlip(padding=2)
    windows = augment.draw(16, torch.device("cpu"), seeded(1))
    assert torch.equal(crop(x, 2, windows), augment(x, seeded(1)))
    part = crop(x[1::3], 2, windows[:, 1::3])
    assert torch.equal(part, augment(x, seeded(1))[1::3])


def test_without_generator_it_follows_the_global_seed():
    x = torch.rand(16, 3, 8, 8, generator=seeded())
    with torch.random.fork_rng():
        torch.manual_seed(3)
        first = RandomCropFlip()(x)
        torch.manual_seed(3)
        assert torch.equal(RandomCropFlip()(x), first)


def test_nothing_to_do_is_the_identity_and_the_input_is_left_alone():
    x = torch.rand(4, 3, 8, 8, generator=seeded())
    before = x.clone()
    assert torch.equal(RandomCropFlip(padding=0, flip=False)(x), x)
    RandomCropFlip()(x)
    assert torch.equal(x, before)


def test_gradients_flow_to_the_pixels_that_stay():
    x = torch.rand(4, 1, 5, 5, generator=seeded()).requires_grad_()
    augment = RandomCropFlip(padding=2)
    augment(x, seeded()).sum().backward()
    kept = augment(torch.ones(4, 1, 5, 5), seeded())
    assert x.grad is not None
    assert torch.equal(x.grad.sum((1, 2, 3)), kept.sum((1, 2, 3)))


def test_negative_padding_is_refused():
    with pytest.raises(InputError, match=r"^Cannot pad images by -1 pixels: give a padding of 0 or more\.$"):
        RandomCropFlip(padding=-1)
