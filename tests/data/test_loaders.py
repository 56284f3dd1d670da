from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from lcprune.data.in_memory import Crops
from lcprune.data.loaders import TrainLoader, eval_batches
from lcprune.data.sampling import BatchSampler
from lcprune.data.sources import Split
from lcprune.errors import DataError

SHAPES = [(1, 4, 4), (3, 4, 4), (1, 3, 5), (3, 6, 2)]


def numbered(count: int, shape: tuple[int, int, int] = (3, 4, 4)) -> Split:
    """Images whose label is their own number and whose pixels, none of them 0, differ."""
    images = np.random.default_rng(7).integers(1, 256, (count, *shape), dtype=np.uint8)
    return Split(images, np.arange(count, dtype=np.int64))


def crops_of(image: np.ndarray, pad: int, mirrors: bool) -> list[bytes]:
    """Every crop of the padded image as float32, by the plainest code there is."""
    _, height, width = image.shape
    padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad))).astype(np.float32) / np.float32(255)
    places = range(2 * pad + 1)
    windows = [padded[:, y : y + height, x : x + width] for y in places for x in places]
    return [w.tobytes() for w in windows] + [w[:, :, ::-1].tobytes() for w in windows if mirrors]


def loader(split: Split, batch_size: int = 4, **changes: object) -> TrainLoader:
    settings = {"augment": "crop_flip", "pad": 1, "seed": 0, "device": "cpu"} | changes
    return TrainLoader(split, batch_size, **settings)


def sampler_of(batches: TrainLoader) -> BatchSampler:
    return batches._batches._sampler


@pytest.mark.parametrize("augment", ["none", "crop_flip"])
def test_every_image_comes_once_in_an_epoch_and_the_order_changes(augment: str) -> None:
    batches = loader(numbered(12), augment=augment)
    assert batches.steps_per_epoch == 3
    orders = [[int(x) for step in range(3 * e, 3 * e + 3) for x in batches.batch(step)[1]] for e in range(3)]
    for order in orders:
        assert sorted(order) == list(range(12))
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert orders[0] != list(range(12))


def test_an_incomplete_last_batch_is_dropped() -> None:
    batches = loader(numbered(11))
    assert batches.steps_per_epoch == 2
    first_epoch = [int(label) for step in range(2) for label in batches.batch(step)[1]]
    assert len(set(first_epoch)) == 8
    assert len(batches.batch(2)[1]) == 4


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("augment", ["none", "crop", "crop_flip"])
def test_a_batch_holds_crops_of_its_images(augment: str, shape: tuple[int, int, int], channels_last: bool) -> None:
    split = numbered(40, shape)
    batches = loader(split, batch_size=40, augment=augment, pad=2, channels_last=channels_last)
    images, labels = batches.batch(0)
    assert images.shape == (40, *shape)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert images.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    pad, mirrors = (0 if augment == "none" else 2), augment == "crop_flip"
    places = []
    for image, label in zip(images.numpy(), labels.tolist(), strict=True):
        places.append(crops_of(split.images[label], pad, mirrors).index(image.tobytes()))
    different = len(set(places))
    assert different == 1 if augment == "none" else different > 12  # 40 draws out of 25 or 50 places


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("mirrored", [None, torch.tensor([0, 1, 1, 0, 1])])
def test_other_devices_crop_as_the_cpu_does(mirrored: Tensor | None, channels_last: bool) -> None:
    crops = Crops(torch.from_numpy(numbered(6, (3, 5, 4)).images), 1, channels_last)
    starts = torch.tensor([0, 7, 42, 100, 250]) * (3 if channels_last else 1) // 3
    torch.testing.assert_close(crops._take_pixels(starts, mirrored), crops._take_windows(starts, mirrored))


def test_every_corner_is_drawn_equally_often() -> None:
    corners, mirrors = np.zeros((3, 3), dtype=int), 0
    batches = loader(numbered(2000), batch_size=2000)
    tops, lefts, mirrored = sampler_of(batches).crops(0)
    np.add.at(corners, (tops.numpy(), lefts.numpy()), 1)
    mirrors = int(mirrored.sum())
    assert 880 < mirrors < 1120  # 1,000 +- 5.4 standard deviations
    assert corners.min() > 150  # 222 +- 5 standard deviations of 14
    assert corners.max() < 294


def mirrored_by_label(batches: TrainLoader, epoch: int) -> dict[int, bool]:
    """Which images of one row, brighter to the right, an epoch mirrors."""
    steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
    images, labels = (torch.cat(parts) for parts in zip(*map(batches.batch, steps), strict=True))
    return dict(zip(labels.tolist(), (images[:, 0, 0, 0] > images[:, 0, 0, -1]).tolist(), strict=True))


def bright_to_the_right(count: int) -> Split:
    images = np.zeros((count, 1, 1, 4), dtype=np.uint8)
    images[:, 0, 0] = [10, 20, 30, 40]
    return Split(images, np.arange(count, dtype=np.int64))


@pytest.mark.parametrize("channels_last", [False, True])
def test_alternating_mirrors_each_image_in_every_second_epoch(channels_last: bool) -> None:
    split = bright_to_the_right(400)
    batches = loader(split, batch_size=50, pad=0, flip="alternating", channels_last=channels_last)
    epochs = [mirrored_by_label(batches, epoch) for epoch in range(4)]
    assert 146 < sum(epochs[0].values()) < 254  # 200 +- 5.4 standard deviations of 10
    assert epochs[0] == epochs[2]
    assert epochs[1] == epochs[3] == {label: not mirrored for label, mirrored in epochs[0].items()}
    other = loader(split, batch_size=50, pad=0, flip="alternating", seed=1)
    assert 146 < sum(mirrored != epochs[0][label] for label, mirrored in mirrored_by_label(other, 0).items()) < 254


def test_alternating_changes_neither_order_nor_crops() -> None:
    split = numbered(24)
    plain, alternating = loader(split, pad=2, augment="crop"), loader(split, pad=2, flip="alternating")
    for step in (0, 3, 8, 30):
        images, labels = plain.batch(step)
        flipped, same = alternating.batch(step)
        assert torch.equal(labels, same)
        straight = {x.numpy().tobytes() for x in images} | {x.flip(2).numpy().tobytes() for x in images}
        assert {x.numpy().tobytes() for x in flipped} <= straight


def test_without_crop_flip_alternating_mirrors_nothing() -> None:
    batches = loader(bright_to_the_right(40), augment="crop", pad=0, flip="alternating")
    assert not any(any(mirrored_by_label(batches, epoch).values()) for epoch in (0, 1))


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    split = numbered(24)
    steps = [0, 3, 7, 8, 30]
    forward = {step: loader(split, seed=5).batch(step) for step in steps}  # a fresh loader each
    shared = loader(split, seed=5)
    for step in [30, 0, 8, 7, 3, 3]:  # across epochs, backwards, twice
        torch.rand(3)  # the global generator has no say
        for mine, theirs in zip(shared.batch(step), forward[step], strict=True):
            assert torch.equal(mine, theirs)
    assert not torch.equal(loader(split, seed=6).batch(0)[1], forward[0][1])


def test_the_same_image_is_drawn_anew_in_every_step_and_with_every_seed() -> None:
    one, other = loader(numbered(24), batch_size=24), loader(numbered(24), batch_size=24, seed=1)
    draws = [
        torch.stack(sampler_of(source).crops(step)) for source, step in ((one, 0), (one, 1), (other, 0), (other, 1))
    ]
    for i, first in enumerate(draws):
        for second in draws[i + 1 :]:
            assert 0.5 < (first != second).any(dim=0).float().mean() <= 1.0  # by chance 17 of 18 differ


def all_levels() -> Split:
    return Split(np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16), np.zeros(1, np.int64))


@pytest.mark.parametrize(
    "make",
    [
        lambda: loader(all_levels(), batch_size=1, augment="none").batch(0),
        lambda: next(eval_batches(all_levels(), 1, "cpu")),
    ],
)
def test_pixels_are_k_over_255_to_the_last_bit(make: Callable[[], tuple[Tensor, Tensor]]) -> None:
    expected = np.arange(256, dtype=np.float32) / np.float32(255)
    assert make()[0].numpy().tobytes() == expected.tobytes()


@pytest.mark.parametrize("channels_last", [False, True])
def test_evaluation_goes_through_all_images_in_order(channels_last: bool) -> None:
    split = numbered(7)
    batches = list(eval_batches(split, 3, "cpu", channels_last))
    assert [len(labels) for _, labels in batches] == [3, 3, 1]
    assert torch.cat([labels for _, labels in batches]).tolist() == list(range(7))
    expected = split.images.astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(torch.cat([images for images, _ in batches]).numpy(), expected)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    assert all(images.is_contiguous(memory_format=memory_format) for images, _ in batches)


def test_an_empty_split_has_no_batches() -> None:
    assert list(eval_batches(numbered(0), 3, "cpu")) == []


def test_a_batch_larger_than_the_data_names_both() -> None:
    with pytest.raises(DataError, match="data.batch_size is 13, but there are only 12 training images"):
        loader(numbered(12), batch_size=13)


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"pad": -1}])
def test_impossible_settings_are_a_slip(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        loader(numbered(12), **wrong)


def test_a_negative_step_is_a_slip() -> None:
    with pytest.raises(ValueError, match="step -1 is negative"):
        loader(numbered(12)).batch(-1)
