import hashlib
import pickle
import sys
import tarfile
import threading
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lcprune.data import sources
from lcprune.data.cifar import _with_channels
from lcprune.data.file_images import FileImages
from lcprune.data.sources import load, read_digits
from lcprune.errors import DataError, SetupError
from lcprune.recipe import DataConfig
from lcprune_runtime import images as images_module

NOWHERE = Path("nowhere")
CIFAR_FILES = ["data_batch_1", "test_batch", "batches.meta"]


# --- digits


def test_digits_have_their_counts_and_range() -> None:
    train, test = read_digits()
    assert train.images.shape == (1437, 1, 8, 8)
    assert test.images.shape == (360, 1, 8, 8)
    for split in (train, test):
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int64
        levels = [round(level * 255 / 16) for level in range(17)]  # 0, 16, 32, ..., 239, 255
        assert np.unique(split.images).tolist() == levels
    assert np.bincount(train.labels).tolist() == [142, 145, 142, 146, 145, 146, 145, 143, 139, 144]
    assert np.bincount(test.labels).tolist() == [36, 37, 35, 37, 36, 36, 36, 36, 35, 36]


def test_no_test_digit_is_trained_on() -> None:
    train, test = read_digits()
    trained_on = {image.tobytes() for image in train.images}
    assert not [image for image in test.images if image.tobytes() in trained_on]


def test_digits_are_held_out_and_measured_after_that() -> None:
    data = load(DataConfig(source="digits", val_size=300), NOWHERE, seed=5)
    everything, test = read_digits()
    assert (len(data.train), len(data.val), len(data.test)) == (1137, 300, 360)
    assert data.image_shape == (1, 8, 8)
    assert data.classes == tuple("0123456789")
    np.testing.assert_array_equal(data.val.images, everything.images[data.val_indices])
    np.testing.assert_array_equal(data.val.labels, everything.labels[data.val_indices])
    np.testing.assert_array_equal(data.test.images, test.images)
    np.testing.assert_allclose(data.mean, [data.train.images.mean() / 255], rtol=1e-12)
    np.testing.assert_allclose(data.std, [data.train.images.std() / 255], rtol=1e-12)


def test_grey_digits_are_repeated_for_rgb() -> None:
    grey, rgb = (load(DataConfig(source="digits", channels=c), NOWHERE, seed=0) for c in (1, 3))
    assert rgb.image_shape == (3, 8, 8)
    np.testing.assert_array_equal(rgb.test.images, np.repeat(grey.test.images, 3, axis=1))
    assert rgb.mean == grey.mean * 3


def test_nothing_held_out_leaves_an_empty_split() -> None:
    data = load(DataConfig(source="digits"), NOWHERE, seed=0)
    assert data.val.images.shape == (0, 1, 8, 8)
    assert len(data.val_indices) == 0
    assert len(data.train) == 1437


@pytest.mark.parametrize(
    ("val_size", "problem"),
    [
        (1437, "data.val_size is 1437, but there are only 1437 training images"),
        (9, "leaves no validation image of class 8"),  # nine seats for ten classes; class 8 is the smallest
        (1430, "leaves no training image of class"),
    ],
)
def test_a_split_that_leaves_too_little_is_refused(val_size: int, problem: str) -> None:
    with pytest.raises(DataError, match=problem) as caught:
        load(DataConfig(source="digits", val_size=val_size), NOWHERE, seed=0)
    assert caught.value.fix


def test_statistics_are_exact_and_never_zero() -> None:
    images = np.zeros((1000, 2, 1, 2), dtype=np.uint8)  # more than one chunk
    images[:, 0, 0, 0] = 255  # half black, half white: mean 0.5, deviation 0.5
    images[:, 1] = 51
    assert sources._statistics(images) == ((0.5, 0.2), (0.5, 1e-3))


def test_rgb_becomes_grey_as_in_pillow() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)  # (N, H, W, C)
    grey = _with_channels(rgb, 1)
    assert grey.shape == (6, 1, 4, 5)
    for pixels, image in zip(rgb, grey, strict=True):
        np.testing.assert_array_equal(image[0], np.asarray(Image.fromarray(pixels).convert("L")))


# --- folders of images


def fill(root: Path, **counts: int) -> Path:
    """`train_cat=2` writes two images into train/cat; the value of a pixel is the number of the image."""
    for place, count in counts.items():
        folder = root / place.replace("_", "/")
        folder.mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (6, 6), (index,) * 3).save(folder / f"{index}.png")
    return root


def folder_config(**values: Any) -> DataConfig:
    return DataConfig(source="imagefolder", image_size=4, **values)


def test_a_folder_with_all_three_splits(tmp_path: Path) -> None:
    fill(tmp_path, train_cat=3, train_dog=2, val_dog=1, test_cat=2, test_dog=1)
    data = load(folder_config(), tmp_path, seed=0)
    assert data.image_shape == (3, 4, 4)
    assert data.classes == ("cat", "dog")
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1]
    assert data.val.labels.tolist() == [1]
    assert data.test.labels.tolist() == [0, 0, 1]
    assert len(data.val_indices) == 0
    np.testing.assert_allclose(data.mean, [(0 + 1 + 2 + 0 + 1) / 5 / 255] * 3)


def test_a_folder_with_train_alone_is_held_out_of(tmp_path: Path) -> None:
    fill(tmp_path, train_cat=4, train_dog=4)
    data = load(folder_config(val_size=2, root=tmp_path, channels=1), None, seed=0)
    assert data.image_shape == (1, 4, 4)
    assert data.val.labels.tolist() == [0, 1]
    assert len(data.train) == 6
    assert data.test.images.shape == (0, 1, 4, 4)


@pytest.mark.parametrize(
    ("counts", "val_size", "problem"),
    [
        ({"test_cat": 1}, 0, "there is no folder .*train"),
        ({"train_cat": 2}, 0, "train has only the class cat"),
        ({"train_cat": 2, "train_dog": 0}, 0, "the class folder .*dog has no images"),
        ({"train_cat": 2, "train_dog": 2, "val_dgo": 1}, 0, r"val/dgo is no class of the training images \(cat, dog\)"),
        ({"train_cat": 2, "train_dog": 2, "val_dog": 1}, 2, "there is a val/ folder, and data.val_size asks for 2"),
        ({"train_cat": 9, "train_dog": 1}, 2, "leaves no validation image of class dog"),
    ],
)
def test_a_folder_that_cannot_be_trained_on(
    tmp_path: Path, counts: dict[str, int], val_size: int, problem: str
) -> None:
    with pytest.raises(DataError, match=problem):
        load(folder_config(val_size=val_size), fill(tmp_path, **counts), seed=0)


def test_a_damaged_image_in_any_split_is_named(tmp_path: Path) -> None:
    fill(tmp_path, train_cat=1, train_dog=1, test_cat=1)
    (tmp_path / "test" / "cat" / "0.png").write_bytes(b"torn")
    with pytest.raises(DataError, match="test/cat/0.png cannot be read as an image"):
        load(folder_config(), tmp_path, seed=0)


def test_all_splits_together_must_fit_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, train_cat=1, train_dog=1, test_cat=1)
    monkeypatch.setattr(images_module, "_physical_memory_bytes", lambda: 2 * 3 * 48 - 1)
    with pytest.raises(DataError, match="3 images of 3 x 4 x 4"):
        load(folder_config(stream="never"), tmp_path, seed=0)


def test_what_would_fill_a_quarter_of_the_memory_stays_in_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, train_cat=1, train_dog=1, test_cat=1)
    for memory, kind in ((4 * 3 * 48, np.ndarray), (4 * 3 * 48 - 1, FileImages)):
        monkeypatch.setattr(images_module, "_physical_memory_bytes", lambda memory=memory: memory)
        assert isinstance(load(folder_config(), tmp_path, seed=0).train.images, kind)


# --- CIFAR, by a small stand-in that torchvision takes for the real set


@pytest.fixture
def small_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that holds a small cifar-10-batches-py and its archive; torchvision is told their MD5 sums."""
    from torchvision.datasets import CIFAR10

    folder = tmp_path / "official" / CIFAR10.base_folder
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 3072), dtype=np.uint8)
    contents = [
        {"data": pixels, "labels": [index % 10 for index in range(20)]},
        {"data": pixels[:4], "labels": [3, 1, 4, 1]},
        {"label_names": [f"class {index}" for index in range(10)]},
    ]
    for name, content in zip(CIFAR_FILES, contents, strict=True):
        (folder / name).write_bytes(pickle.dumps(content))
    archive = folder.parent / CIFAR10.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, CIFAR10.base_folder)
    train, test, meta = ((name, hashlib.md5((folder / name).read_bytes()).hexdigest()) for name in CIFAR_FILES)
    monkeypatch.setattr(CIFAR10, "train_list", [train])
    monkeypatch.setattr(CIFAR10, "test_list", [test])
    monkeypatch.setattr(CIFAR10, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]})
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(CIFAR10, "url", (tmp_path / "gone" / archive.name).as_uri())  # there is nothing to download
    return folder.parent


CIFAR = DataConfig(source="cifar10", val_size=10)


def test_cifar_that_is_there_is_read(small_cifar: Path) -> None:
    data = load(CIFAR, small_cifar, seed=0, download=False)
    assert data.image_shape == (3, 32, 32)
    assert np.bincount(data.val.labels).tolist() == [1] * 10
    assert data.test.labels.tolist() == [3, 1, 4, 1]
    assert data.classes[3] == "class 3"
    content = pickle.loads((small_cifar / "cifar-10-batches-py" / "data_batch_1").read_bytes())
    np.testing.assert_array_equal(data.val.images, content["data"].reshape(-1, 3, 32, 32)[data.val_indices])


def test_cifar_that_is_absent_is_downloaded_in_silence(
    small_cifar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from torchvision.datasets import CIFAR10

    monkeypatch.setenv("no_proxy", "*")
    root = tmp_path / "new" / "data"
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=small_cifar)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{server.server_port}/{CIFAR10.filename}")
        data = load(CIFAR, root, seed=0)
        server.shutdown()
    assert len(data.train) == 10
    assert [path.name for path in root.iterdir()] == [CIFAR10.base_folder]  # no archive, no half-written folder
    assert capsys.readouterr().out == ""


def test_an_archive_that_is_there_is_unpacked_without_a_network(small_cifar: Path, tmp_path: Path) -> None:
    root = tmp_path / "mine"
    root.mkdir()
    (small_cifar / "cifar-10-python.tar.gz").rename(root / "cifar-10-python.tar.gz")
    assert len(load(CIFAR, root, seed=0, download=False).train) == 10


def half_a_set(root: Path, official: Path) -> None:
    (root / "cifar-10-batches-py").mkdir(parents=True)
    (official / "cifar-10-batches-py" / "test_batch").rename(root / "cifar-10-batches-py" / "test_batch")


@pytest.mark.parametrize("begin", [lambda root, official: None, half_a_set], ids=["nothing", "half a set"])
@pytest.mark.parametrize(("download", "reason"), [(True, "it cannot be fetched: "), (False, "switched off")])
def test_cifar_that_cannot_be_had_says_which_files_to_put_where(
    small_cifar: Path, tmp_path: Path, begin: Callable[[Path, Path], None], download: bool, reason: str
) -> None:
    root = tmp_path / "mine"
    begin(root, small_cifar)
    with pytest.raises(DataError, match=f"CIFAR10 is not .* in .*mine, and .*{reason}") as caught:
        load(CIFAR, root, seed=0, download=download)
    for part in (str(root / "cifar-10-python.tar.gz"), str(root / "cifar-10-batches-py"), "gone", *CIFAR_FILES):
        assert part in caught.value.fix
    assert not list(root.glob(".download-*"))


def test_a_corrupt_batch_is_named_and_not_replaced_unasked(small_cifar: Path) -> None:
    damaged = small_cifar / "cifar-10-batches-py" / "test_batch"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(DataError, match=f"damaged: {damaged} ") as caught:
        load(CIFAR, small_cifar, seed=0)
    assert "delete" in caught.value.fix


def test_a_corrupt_archive_is_named(small_cifar: Path, tmp_path: Path) -> None:
    root = tmp_path / "mine"
    root.mkdir()
    (root / "cifar-10-python.tar.gz").write_bytes(b"half of it")
    with pytest.raises(DataError, match="cifar-10-python.tar.gz is damaged") as caught:
        load(CIFAR, root, seed=0)
    assert "delete it" in caught.value.fix


def test_torchvision_that_does_not_fit_torch_says_how_to_fix_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SetupError, match="operator torchvision::nms does not exist") as caught:
        load(CIFAR, tmp_path, seed=0)
    assert "pip install torch torchvision" in caught.value.fix


def test_mean_and_std_of_the_recipe_are_taken(tmp_path: Path) -> None:
    data = load(DataConfig.model_validate({"source": "digits", "mean": [0.3], "std": [0.2]}), tmp_path, seed=0)
    assert (data.mean, data.std) == ((0.3,), (0.2,))


# --- the real sets


@pytest.mark.slow
@pytest.mark.parametrize(("source", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_the_official_cifar_sets(cifar_root: Path, source: str, classes: int) -> None:
    data = load(DataConfig.model_validate({"source": source, "val_size": 5000}), cifar_root, seed=0, download=False)
    assert data.train.images.shape == (45_000, 3, 32, 32)
    assert data.test.images.shape == (10_000, 3, 32, 32)
    assert len(data.classes) == classes
    assert np.bincount(data.train.labels).tolist() == [45_000 // classes] * classes
    assert np.bincount(data.val.labels).tolist() == [5_000 // classes] * classes
    assert np.bincount(data.test.labels).tolist() == [10_000 // classes] * classes
    if source == "cifar10":  # known figures of the whole training set, here without the validation images
        np.testing.assert_allclose(data.mean, [0.4914, 0.4822, 0.4465], atol=1e-3)
        np.testing.assert_allclose(data.std, [0.2470, 0.2435, 0.2616], atol=1e-3)
