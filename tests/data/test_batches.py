"""`Batches`: every epoch a permutation, shards that add up to the whole, and a series that resumes anywhere."""

import logging
from itertools import chain, islice
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils._python_dispatch import TorchDispatchMode

from robustdeq.base.errors import InputError
from robustdeq.data import Batches, Images, RandomCropFlip

CROP = RandomCropFlip(padding=1)


def images(n, scale=255, size=2):
    """Random images, of which each has its own number for a label."""
    pixels = torch.randint(1, scale + 1, (n, 1, size, size), generator=torch.Generator().manual_seed(0))
    return Images(pixels.to(torch.uint8), torch.arange(n), tuple(map(str, range(n))), "made up", scale)


def series(batches, epochs=1):
    """The first batches of a series, epoch by epoch."""
    return flat(list(batches) for _ in range(epochs))


def same(a, b):
    return len(a) == len(b) and all(torch.equal(*pair) for pair in zip(flat(a), flat(b), strict=True))


def numbers(batches):
    return [y.tolist() for _, y in batches]


def flat(lists):
    return list(chain.from_iterable(lists))


@settings(deadline=None)
@given(n=st.integers(1, 40), size=st.integers(1, 40), seed=st.integers(0, 2**40))
def test_an_epoch_is_a_permutation_without_the_short_last_batch(n, size, seed):
    size = min(size, n)
    batches = Batches(images(n), size, seed=seed)
    for epoch in (numbers(batches), numbers(batches)):
        assert [len(batch) for batch in epoch] == [size] * (n // size) and len(epoch) == len(batches)
        assert len(set(flat(epoch))) == n // size * size


def test_order_follows_the_seed_and_the_epoch():
    first, again, other = (series(Batches(images(40), 10, seed=seed), epochs=2) for seed in (0, 0, 1))
    assert same(first, again)
    orders = [flat(numbers(part)) for part in (first[:4], first[4:], other[:4], other[4:])]
    assert all(sorted(order) == list(range(40)) for order in orders)
    assert len(set(map(tuple, orders))) == 4


@pytest.mark.parametrize(("n", "expected"), [(8, [4, 4]), (9, [4, 4, 1]), (3, [3])])
def test_unshuffled_keeps_the_order_and_the_short_last_batch(n, expected):
    some = images(n, scale=16)
    batches = Batches(some, 4, shuffle=False)
    for epoch in (list(batches), list(batches)):
        assert [len(y) for _, y in epoch] == expected and len(batches) == len(expected)
        x, y = (torch.cat(parts) for parts in zip(*epoch, strict=True))
        assert torch.equal(x, some.tensors()[0]) and torch.equal(y, some.labels)


@pytest.mark.parametrize("scale", [16, 255])
def test_labels_stay_with_their_images_which_are_scaled_as_images_are(scale):
    some = images(100, scale)
    for x, y in Batches(some, 7):
        assert x.dtype == torch.float32 and torch.equal(x, some.tensors()[0][y])


def test_augmented_images_are_windows_of_their_own_and_drawn_anew_for_every_batch():
    some = images(64, size=3)
    every = torch.full((400,), 17)
    windows = {tuple(x.flatten().tolist()) for x in CROP(some.tensors()[0][every], torch.Generator().manual_seed(0))}
    one = Images(some.pixels[every], some.labels[every], some.classes, "one image")
    epochs = series(Batches(one, 20, augmentation=CROP), epochs=2)
    draws = [tuple(tuple(image.flatten().tolist()) for image in x) for x, _ in epochs]
    assert set(flat(draws)) == windows
    assert len(set(draws)) == len(epochs) == 40


@settings(deadline=None, max_examples=50)
@given(size=st.integers(1, 6), world=st.integers(1, 4), extra=st.integers(0, 30), seed=st.integers(0, 9))
def test_processes_see_together_what_one_sees(size, world, extra, seed):
    some = images(size * world + extra)
    whole = series(Batches(some, size * world, seed=seed, augmentation=CROP), epochs=2)
    for rank in range(world):
        shard = series(Batches(some, size, seed=seed, augmentation=CROP, rank=rank, world=world), epochs=2)
        assert same(shard, [(x[rank::world], y[rank::world]) for x, y in whole])


@settings(deadline=None)
@given(size=st.integers(2, 6), world=st.integers(1, 4), extra=st.integers(0, 60))
def test_unshuffled_processes_share_every_image_in_as_many_batches(size, world, extra):
    n = world + extra
    shards = [numbers(Batches(images(n), size, shuffle=False, rank=rank, world=world)) for rank in range(world)]
    assert sorted(flat(flat(shards))) == list(range(n))
    for parts in zip(*shards, strict=True):
        sizes = [len(part) for part in parts]
        assert min(sizes) > 0 and max(sizes) <= min(size, min(sizes) + 1)
    assert len(shards[0]) == -(-n // (size * world))


@settings(deadline=None)
@given(n=st.integers(1, 12), size=st.integers(1, 5), cut=st.integers(0, 30), world=st.sampled_from([1, 2]))
def test_resumes_after_any_batch(n, size, cut, world):
    some = images(n + 2 * size)
    whole = Batches(some, 2 * size, seed=3, augmentation=CROP)
    epochs = 2 + cut // len(whole)
    expected = [(x[::world], y[::world]) for x, y in series(whole, epochs)]
    interrupted = Batches(some, 2 * size, seed=3, augmentation=CROP)
    stream = chain.from_iterable(iter(interrupted) for _ in range(epochs))
    seen = list(islice(stream, cut))
    resumed = Batches(some, 2 * size // world, seed=3, augmentation=CROP, world=world)
    resumed.load_state_dict(interrupted.state_dict())
    assert resumed.state_dict() == interrupted.state_dict()
    assert same([(x[::world], y[::world]) for x, y in seen], expected[:cut])
    assert same(series(resumed, epochs - cut // len(whole)), expected[cut:])


def test_an_iterator_that_is_left_early_ends_its_epoch_and_an_unused_one_changes_nothing():
    expected = series(Batches(images(12), 4), epochs=2)
    batches = Batches(images(12), 4)
    iter(batches)
    before = batches.state_dict()
    next(iter(batches))
    assert batches.state_dict() != before
    assert same(list(batches), expected[3:])


def test_an_announced_epoch_comes_next_unless_a_state_was_loaded():
    expected = series(Batches(images(12), 4), epochs=3)
    batches, resumed = Batches(images(12), 4), Batches(images(12), 4)
    resumed.load_state_dict(batches.state_dict())
    for some in (batches, resumed):
        some.set_epoch(2)
    assert same(list(batches), expected[6:]) and same(list(resumed), expected[:3])


class NoWaiting(TorchDispatchMode):
    """Refuses the operations for which a host waits for its device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket not in (
            torch.ops.aten._local_scalar_dense,
            torch.ops.aten.nonzero,
            torch.ops.aten.masked_select,
            torch.ops.aten.equal,
        ), func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("shuffle", [True, False])
def test_the_host_never_waits_for_the_device(shuffle):
    with pytest.raises(AssertionError), NoWaiting():
        torch.ones(2).sum().item()
    batches = Batches(images(9), 4, augmentation=CROP, shuffle=shuffle)
    with NoWaiting():
        assert len(list(batches)) == len(batches)


class Recorder(lightning.LightningModule):
    """Trains nothing, and writes down the labels of every batch and the epoch it came in."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.trained: list[tuple[int, list[int]]] = []
        self.validated: list[list[int]] = []

    def training_step(self, batch, batch_idx):
        self.trained.append((self.current_epoch, batch[1].tolist()))
        return self.weight * batch[0].mean()

    def validation_step(self, batch, batch_idx):
        self.validated.append(batch[1].tolist())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(
    folder: Path, resume: Path | None = None, validate=True, interval=None, max_steps=-1, **saving: Any
) -> Recorder:
    module = Recorder()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=4 if max_steps == -1 else -1,
        max_steps=max_steps,
        val_check_interval=interval,
        check_val_every_n_epoch=None if interval else 1,
        callbacks=[ModelCheckpoint(folder, filename="{step}", save_top_k=-1, **saving)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0 if resume else 1,
    )
    validation = Batches(images(7), 4, shuffle=False) if validate else None
    trainer.fit(module, Batches(images(22), 4, seed=5), validation, ckpt_path=resume)
    return module


AT_THE_END = {"every_n_epochs": 1, "save_on_train_epoch_end": True}
AFTER_VALIDATION = {"every_n_epochs": 1, "save_on_train_epoch_end": False}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("step", "settings"),
    [
        (8, {"every_n_train_steps": 4}),
        (8, {"every_n_train_steps": 4, "max_steps": 17}),
        (10, {"every_n_train_steps": 5, "max_steps": 17, "interval": 6}),
        (10, {"every_n_train_steps": 5, "validate": False}),
        (10, AT_THE_END),
        (10, AT_THE_END | {"validate": False}),
        (10, AFTER_VALIDATION),
        (10, AFTER_VALIDATION | {"max_steps": 17}),
    ],
)
def test_lightning_resumes_with_the_batches_that_would_have_followed(step, settings, tmp_path, caplog):
    caplog.set_level(logging.ERROR, "lightning.pytorch")
    whole = fit(tmp_path, **settings)
    batches = numbers(series(Batches(images(22), 4, seed=5), epochs=4))
    expected = [(number // 5, batch) for number, batch in enumerate(batches)]
    assert whole.trained == expected[: len(whole.trained)] and len(whole.trained) == settings.get("max_steps", 20)
    saved = tmp_path / f"step={step}.ckpt"
    state = torch.load(saved, weights_only=True)["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    assert state == [{"drawn": step, "seed": 5, "images": 22, "batch_size": 4}]
    resumed = fit(tmp_path / "resumed", resume=saved, **settings)
    assert resumed.trained == whole.trained[step:]


@pytest.mark.filterwarnings("ignore")
def test_lightning_validates_on_all_images_after_its_sanity_check(tmp_path):
    validated = fit(tmp_path).validated
    assert validated == [[0, 1, 2, 3], *([[0, 1, 2, 3], [4, 5, 6]] * 4)]


@pytest.mark.filterwarnings("ignore")
def test_epochs_are_lightnings_own_where_it_loads_a_state_and_then_miscounts(tmp_path):
    saving = AT_THE_END | {"max_steps": 17}
    whole = fit(tmp_path, **saving)
    resumed = fit(tmp_path / "resumed", resume=tmp_path / "step=10.ckpt", **saving)
    assert [batch for _, batch in resumed.trained] == [batch for _, batch in whole.trained[10:]]


@pytest.mark.parametrize(
    ("n", "size", "settings", "message"),
    [
        (0, 1, {}, r"^made up holds no images: give some\.$"),
        (9, 0, {}, r"^batch_size is 0; give 1 or more\.$"),
        (9, 1, {"seed": -1}, r"^seed is -1; give 0 or a positive number"),
        (
            9,
            1,
            {"rank": 2, "world": 2},
            r"^rank is 2 in a world of 2; give a rank from 0 to one less than the",
        ),
        (9, 1, {"rank": -1}, r"^rank is -1 in a world of 1; "),
        (
            9,
            10,
            {},
            r"^The batch_size 10 times 1 process\(es\) is larger than the data, the 9 images of made up: ",
        ),
        (9, 5, {"world": 2}, r"^The batch_size 5 times 2 process\(es\) is larger than the data, "),
        (1, 5, {"world": 2, "shuffle": False}, r"^Cannot share 1 images of made up among 2 processes in batches of 5 "),
        (9, 1, {"world": 2, "shuffle": False}, r"^Cannot share 9 images of made up among 2 processes in batches of 1 "),
    ],
)
def test_what_cannot_be_batched_is_refused(n, size, settings, message):
    with pytest.raises(InputError, match=message):
        Batches(images(9).subset(slice(n)), size, **settings)


@pytest.mark.parametrize(("n", "size", "seed", "changed"), [(9, 4, 1, "seed"), (8, 4, 0, "images"), (9, 2, 0, "batch")])
def test_a_state_of_other_batches_is_refused(n, size, seed, changed):
    state = Batches(images(9), 4).state_dict()
    with pytest.raises(InputError, match=f"^Cannot resume with {changed}.* a run that had "):
        Batches(images(n), size, seed=seed).load_state_dict(state)
