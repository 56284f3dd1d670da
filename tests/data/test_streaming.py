from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lcprune.data import sources
from lcprune.data.file_images import FileImages
from lcprune.data.loaders import TrainLoader, eval_batches
from lcprune.data.sources import Dataset, Split
from lcprune.errors import DataError
from lcprune.recipe import DataConfig
from lcprune_runtime.files import Files
from lcprune_runtime.images import Preparation

CPU = torch.device("cpu")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of seven and five images of 12 x 16 noise for training, two of each to test on."""
    noise = np.random.default_rng(0)
    for split, name, count in (("train", "cat", 7), ("train", "dog", 5), ("test", "cat", 2), ("test", "dog", 2)):
        folder = tmp_path / split / name
        folder.mkdir(parents=True)
        for number in range(count):
            Image.fromarray(noise.integers(0, 256, (12, 16, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return tmp_path


def read(root: Path, **keys: object) -> Dataset:
    settings = {"source": "imagefolder", "root": root, "image_size": 8, "batch_size": 4, **keys}
    return sources.load(DataConfig.model_validate(settings), root, seed=0)


def loader(split: Split, augment: str = "none", **keys: object) -> TrainLoader:
    return TrainLoader(split, 4, augment, 2, 3, CPU, **keys)


def test_a_stream_reads_what_memory_holds(photos: Path) -> None:
    in_memory, streamed = read(photos, val_size=4), read(photos, val_size=4, stream="always")
    assert isinstance(streamed.train.images, FileImages)
    assert isinstance(in_memory.train.images, np.ndarray)
    for name in ("train", "val", "test"):
        held, filed = getattr(in_memory, name), getattr(streamed, name)
        np.testing.assert_array_equal(filed.images[:], held.images)
        np.testing.assert_array_equal(filed.labels, held.labels)
    assert (streamed.mean, streamed.std) == (in_memory.mean, in_memory.std)
    assert streamed.image_shape == (3, 8, 8)
    np.testing.assert_array_equal(streamed.test.mirrored().images[1:3], in_memory.test.images[1:3, :, :, ::-1])


@pytest.mark.parametrize(
    ("augment", "flip"), [("none", "random"), ("crop", "random"), ("crop_flip", "random"), ("crop_flip", "alternating")]
)
def test_a_stream_makes_the_batches_that_memory_makes(photos: Path, augment: str, flip: str) -> None:
    in_memory, streamed = read(photos), read(photos, stream="always")
    held, filed = (loader(data.train, augment, flip=flip) for data in (in_memory, streamed))
    assert filed.steps_per_epoch == held.steps_per_epoch == 3
    for step in (0, 1, 7):
        for ours, theirs in zip(filed.batch(step), held.batch(step), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_no_two_images_of_a_run_are_changed_alike_and_another_seed_changes_them_otherwise() -> None:
    one = np.random.default_rng(0).integers(0, 256, (1, 3, 16, 16), dtype=np.uint8)
    alike = Split(np.repeat(one, 8, axis=0), np.zeros(8, dtype=np.int64))  # what differs was drawn
    made = []
    for seed in (3, 4):
        batches = TrainLoader(alike, 4, "resized_crop", 0, seed, CPU)
        made += [image for step in range(4) for image in batches.batch(step)[0]]
    assert len(made) == 32
    assert len({image.numpy().tobytes() for image in made}) == 32


def test_a_crop_of_the_whole_image_only_mirrors_it() -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 3, 16, 16), dtype=np.uint8)
    split = Split(images, np.arange(8))
    pixels, labels = TrainLoader(split, 8, "resized_crop", 0, 0, CPU, crop_scale=(1.0, 1.0)).batch(0)
    expected = torch.from_numpy(images[labels.numpy()]).float() / 255
    same = torch.stack([(pixels == each).flatten(1).all(1) for each in (expected, expected.flip(3))])
    assert same.any(0).all()
    assert same.any(1).all()  # one is mirrored, another is not


@pytest.mark.parametrize("augment", ["resized_crop", "randaugment"])
def test_a_batch_is_a_function_of_seed_and_step_whoever_makes_it(photos: Path, augment: str) -> None:
    train = read(photos, stream="always", crop="center", resize=10).train
    one, other = loader(train, augment), loader(train, augment, workers=2)
    state = torch.get_rng_state()
    try:
        made = [one.batch(step) for step in range(5)]
        assert torch.equal(torch.get_rng_state(), state)  # nothing else that is random is moved
        for step in (0, 1, 4, 2, 3):  # as it comes, and after a jump
            for ours, theirs in zip(other.batch(step), made[step], strict=True):
                torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    finally:
        other.close()
    assert made[0][0].shape == (4, 3, 8, 8)
    assert not torch.equal(made[0][0], one.batch(3)[0])
    assert other.waited_s > 0


def test_a_random_part_is_taken_of_the_whole_image(photos: Path) -> None:
    images = read(photos, crop="center", resize=9, augment="resized_crop").train.images
    assert isinstance(images, FileImages)  # memory would hold the middle alone
    assert isinstance(read(photos, augment="resized_crop").train.images, np.ndarray)  # which is all, without a crop
    assert images.read(0)[1].shape == (3, 9, 12)  # 12 x 16 scaled to a shorter side of 9
    assert images[0].shape == (3, 8, 8)


def test_workers_evaluate_too(photos: Path) -> None:
    alone = read(photos, stream="always").train
    shared = read(photos, stream="always", workers=2).train
    for (ours, _), (theirs, _) in zip(eval_batches(shared, 5, CPU), eval_batches(alone, 5, CPU), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_file_stops_a_stream_and_is_named(photos: Path, workers: int) -> None:
    (photos / "train" / "dog" / "3.png").write_bytes(b"no image")
    train = Split(
        read(photos, stream="always", normalize="imagenet", workers=workers).train.images, np.zeros(12, np.int64)
    )
    batches = loader(train, workers=workers)
    with pytest.raises(DataError, match=r"dog/3\.png cannot be read as an image"):
        [batches.batch(step) for step in range(3)]
    with pytest.raises(DataError, match=r"dog/3\.png cannot be read as an image"):
        list(eval_batches(train, 5, CPU))


def test_another_image_replaces_a_damaged_one_and_brings_its_label(photos: Path) -> None:
    (photos / "train" / "cat" / "6.png").write_bytes(b"no image")  # the last cat: a dog is next
    (photos / "test" / "dog" / "1.png").write_bytes(b"no image")
    data = read(photos, stream="always", on_bad_image="skip")
    assert data.skipped == (str(photos / "test" / "dog" / "1.png"),)
    assert data.test.labels.tolist() == [0, 0, 1]  # every test image counts once
    batches = loader(data.train)
    labels = torch.cat([batches.batch(step)[1] for step in range(3)])
    assert torch.bincount(labels).tolist() == [6, 6]
    assert batches.skipped == (str(photos / "train" / "cat" / "6.png"),)


def test_memory_leaves_damaged_images_out(photos: Path) -> None:
    (photos / "train" / "cat" / "6.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"cat/6\.png cannot be read"):
        read(photos)
    data = read(photos, on_bad_image="skip")
    assert data.skipped == (str(photos / "train" / "cat" / "6.png"),)
    assert data.train.labels.tolist() == [0] * 6 + [1] * 5
    assert data.train.images.shape == (11, 3, 8, 8)


def test_the_first_image_replaces_the_last_one_until_nothing_can_be_read(photos: Path) -> None:
    paths = sorted(map(str, (photos / "train").rglob("*.png")))
    images = FileImages(Files.of(paths, range(12)), np.arange(12), preparation=Preparation(8, 3), skips=True)
    for path in (paths[11], paths[0]):
        Path(path).write_bytes(b"")
    index, pixels = images.read(11)
    assert index == 1
    np.testing.assert_array_equal(pixels, images.read(1)[1])
    for path in paths:
        Path(path).write_bytes(b"")
    with pytest.raises(DataError, match="not one of the images can be read"):
        images.read(0)


def test_one_folder_is_split_and_the_test_images_do_not_depend_on_the_seed(photos: Path) -> None:
    root = photos / "train"  # CLASS/image, and nothing else
    settings = {"source": "imagefolder", "image_size": 8, "val_size": 3, "test_size": 4, "batch_size": 2}
    one, other = (sources.load(DataConfig.model_validate(settings), root, seed=seed) for seed in (0, 1))
    assert [len(split) for split in (one.train, one.val, one.test)] == [5, 3, 4]
    np.testing.assert_array_equal(one.test.images, other.test.images)
    assert one.classes == ("cat", "dog")
    assert sources.describe(DataConfig.model_validate(settings), root) == (2, (3, 8, 8))


def test_more_test_images_are_not_taken_where_there_are_some(photos: Path) -> None:
    with pytest.raises(DataError, match="there are test images, and data.test_size asks for 2 more"):
        read(photos, test_size=2)


def test_imagenet_streams_and_tests_on_its_validation_images(photos: Path) -> None:
    (photos / "test").rename(photos / "val")
    data = read(photos, source="imagenet", val_size=2)
    assert isinstance(data.train.images, FileImages)
    assert [len(split) for split in (data.train, data.val, data.test)] == [10, 2, 4]
    assert data.mean == (0.485, 0.456, 0.406)


def test_a_manifest_names_the_files(photos: Path) -> None:
    rows = [f"train/{name}/{number}.png,{name},train" for name in ("cat", "dog") for number in range(5)]
    rows += ["test/cat/0.png,cat,test", "test/dog/1.png,dog,test"]
    (photos / "all.csv").write_text("\n".join(["path,label,split", *rows]), encoding="utf-8")
    data = read(photos, source="manifest", manifest="all.csv")
    by_folder = read(photos)
    assert data.classes == ("cat", "dog")
    assert data.train.labels.tolist() == [0] * 5 + [1] * 5
    np.testing.assert_array_equal(data.train.images[5:], by_folder.train.images[7:])
    np.testing.assert_array_equal(data.test.images, by_folder.test.images[[0, 3]])


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_a_second_epoch_decodes_nothing(photos: Path, cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LCPRUNE_CACHE", str(photos / "cache"))
    train = read(photos, stream="always", cache=cache, workers=2, normalize="imagenet").train
    expected = read(photos).train.images
    batches = loader(train, workers=2)
    for step in range(3):
        batches.batch(step)
    batches.batch(9)  # a new queue starts once the old workers are done with what they had begun
    batches.close()
    monkeypatch.setattr("lcprune.data.file_images.read_resized", lambda *_: pytest.fail("decoded again"))
    np.testing.assert_array_equal(train.images[:], expected)
