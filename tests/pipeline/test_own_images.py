"""Runs on image files: streams are what memory holds, a stopped run goes on, predictions see the same pixels."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from lcprune import recipe as recipes
from lcprune import runs
from lcprune.cli import app
from lcprune.errors import DataError, Interrupted
from lcprune.pipeline import metrics, stored
from lcprune.pipeline import train as pipeline
from lcprune.pipeline.metrics import loading_hint
from lcprune.pipeline.train import Trained
from lcprune.training.loop import Evaluation, LoggedStep
from lcprune_runtime import images as images_module
from lcprune_runtime import predict as prediction
from lcprune_runtime.metadata import InputInfo, read_info
from lcprune_runtime.session import ProgressiveSession

RECIPE = """\
name: photos
data:
  source: imagefolder
  image_size: 16
  val_size: 6
  batch_size: 8
model: {width: 0.0625}
critics: {channels: 8, head: pooled, pool_to: 2}
train: {method: deep_supervision, iterations: 12, checkpoint_every: 4, evaluate_every: 6}
logging: {every: 3}
"""
STREAM = ("data.stream=always", "data.crop=center", "data.resize=20")


class Listener:
    """Does something after one step."""

    def __init__(self, at: int, act: Callable[[], None]) -> None:
        self._at, self._act = at, act

    def stepped(self, step: int, logged: LoggedStep | None) -> None:
        if step == self._at:
            self._act()

    def evaluated(self, evaluation: Evaluation) -> None: ...


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright and dark images of several sizes: 30 and 10 to train on, 6 and 2 to test on."""
    root = tmp_path_factory.mktemp("photos")
    noise = np.random.default_rng(0)
    counts = {("train", "bright"): 30, ("train", "dark"): 10, ("test", "bright"): 6, ("test", "dark"): 2}
    for (split, name), count in counts.items():
        (root / split / name).mkdir(parents=True)
        for number in range(count):
            pixels = noise.integers(0, 128, (20 + number, 40 - number, 3), dtype=np.uint8)
            Image.fromarray(pixels + (127 if name == "bright" else 0)).save(root / split / name / f"{number:02d}.png")
    return root


def train(root: Path, out: Path, *overrides: str, stop_at: int = -1, notices: list[str] | None = None) -> Trained:
    listener = Listener(stop_at, lambda: os.kill(os.getpid(), signal.SIGINT))
    return pipeline.train(
        recipes.parse(RECIPE, overrides=overrides),
        out=out,
        data_root=root,
        device="cpu",
        display=lambda *_: nullcontext(listener),
        notice=[].append if notices is None else notices.append,
    )


def weights(run: Path) -> bytes:
    return (run / "weights.safetensors").read_bytes()


def test_a_run_that_streams_is_bit_equal_to_one_in_memory(photos: Path, tmp_path: Path) -> None:
    settings = ("data.augment=crop_flip", "data.normalize=imagenet")
    train(photos, tmp_path / "memory", *settings)
    train(photos, tmp_path / "stream", *settings, "data.stream=always", "data.workers=1", "data.cache=memory")
    assert weights(tmp_path / "memory") == weights(tmp_path / "stream")
    line = json.loads((tmp_path / "stream" / "metrics.jsonl").read_text().splitlines()[0])
    assert 0 < line["wait_share"] <= 1
    assert "wait_share" not in (tmp_path / "memory" / "metrics.jsonl").read_text()


def test_a_stopped_run_with_everything_random_goes_on_bit_equal(photos: Path, tmp_path: Path) -> None:
    settings = (*STREAM, "data.augment=randaugment", "data.mixup=0.2", "data.cutmix=1.0", "data.balance=sampling")
    train(photos, tmp_path / "whole", *settings)
    with pytest.raises(Interrupted):
        train(photos, tmp_path / "stopped", *settings, "data.workers=1", stop_at=6)
    pipeline.resume(
        tmp_path / "stopped",
        (),
        device="cpu",
        display=lambda *_: nullcontext(Listener(-1, lambda: None)),
        notice=lambda _: None,
    )
    assert weights(tmp_path / "whole") == weights(tmp_path / "stopped")


@pytest.mark.parametrize("method", ["backprop", "local_critic", "deep_supervision"])
def test_balanced_losses_train_with_every_method(photos: Path, tmp_path: Path, method: str) -> None:
    keys = (f"train.method={method}", "critics.batch_norm=true", "train.iterations=2")
    plain = train(photos, tmp_path / "plain", *keys)
    balanced = train(photos, tmp_path / "balanced", *keys, "data.balance=loss")
    assert weights(plain.run) != weights(balanced.run)
    with np.load(balanced.run / "predictions.npz") as arrays:
        right = arrays["test_logits"].argmax(2) == arrays["test_labels"]
        labels = arrays["test_labels"]
    recalls = [(of_exit[labels == 0].mean() + of_exit[labels == 1].mean()) * 50 for of_exit in right]
    assert balanced.test_balanced_accuracy_pct == pytest.approx(recalls)


def test_predict_sees_the_pixels_that_training_evaluated(photos: Path, tmp_path: Path) -> None:
    run = train(photos, tmp_path / "run", *STREAM, "data.interpolation=bicubic", "train.iterations=4").run
    done = CliRunner().invoke(app, ["export", str(run), "--format", "onnx", "--exit", "main"])
    assert done.exit_code == 0, done.stderr
    (model,) = (run / "export").glob("*.onnx")
    assert read_info(model).input == InputInfo(
        size=16, channels=3, resize="shorter_side", crop="center", interpolation="bicubic", shorter_side=20
    )
    preparation = read_info(model).input.preparation
    paths = sorted((photos / "test").rglob("*.png"))
    pixels = np.stack([images_module.read_prepared(path, preparation) for path in paths])
    dataset, _ = stored.load_dataset(run, recipes.load(run / runs.RECIPE))
    np.testing.assert_array_equal(pixels, dataset.test.images[:])
    rows = prediction.predict(model, [photos / "test"])["images"]
    labels = ProgressiveSession(model)(dataset.test.images[:]).labels
    assert [row["class"] for row in rows] == [dataset.classes[label] for label in labels]


def test_damaged_images_stop_the_command_or_are_counted(photos: Path, tmp_path: Path) -> None:
    root = tmp_path / "photos"
    shutil.copytree(photos, root)
    (root / "train" / "dark" / "03.png").write_bytes(b"no image")
    (tmp_path / "photos.yaml").write_text(RECIPE, encoding="utf-8")
    command = ["train", str(tmp_path / "photos.yaml"), "--data-root", str(root), "--set", "train.iterations=2"]
    stopped = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "a")])
    assert stopped.exit_code == 1
    assert "dark/03.png cannot be read as an image" in stopped.stderr
    for stream in ("never", "always"):
        out = tmp_path / stream
        keys = ["--set", f"data.stream={stream}", "--set", "train.epochs=1", "--on-bad-image", "skip"]
        done = CliRunner().invoke(app, [*command[:4], *keys, "--out", str(out), "--json"])
        assert done.exit_code == 0, done.stderr
        result = json.loads(done.stdout)
        assert result["bad_images"] == 1
        assert len(result["test_balanced_accuracy_pct"]) == 4
        assert json.loads((out / runs.BAD_IMAGES).read_text())["paths"] == [str(root / "train" / "dark" / "03.png")]
        assert "damaged images left out: 1 (" in done.stderr


def test_where_loading_takes_the_time_it_says_so(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "MUCH_WAITING", 0.0)
    notices: list[str] = []
    train(photos, tmp_path / "run", *STREAM, "train.iterations=6", notices=notices)
    (hint,) = [line for line in notices if "training waits for images" in line]
    assert "images/s" in hint
    assert "data.cache=disk" in hint
    assert loading_hint(4096, is_cached=True) == "take a smaller data.resize, or store the images smaller"


def test_imagenet_trains_on_a_set_of_its_layout(photos: Path, tmp_path: Path) -> None:
    root = tmp_path / "imagenet"
    root.mkdir()
    (root / "train").symlink_to(photos / "train")
    (root / "val").symlink_to(photos / "test")
    keys = ["model.width=0.03125", "data.image_size=32", "data.resize=40", "data.batch_size=4", "data.workers=1"]
    keys += ["critics.channels=4", "critics.pool_to=1", "train.iterations=2", "data.val_size=4", "train.precision=fp32"]
    recipe = recipes.load("resnet50_imagenet", keys)
    result = pipeline.train(
        recipe,
        out=tmp_path / "run",
        data_root=root,
        device="cpu",
        display=lambda *_: nullcontext(Listener(-1, lambda: None)),
        notice=lambda _: None,
    )
    assert len(result.test_accuracy_pct) == 4
    with np.load(result.run / "predictions.npz") as arrays:
        assert arrays["test_labels"].tolist() == [0] * 6 + [1] * 2
    with pytest.raises(DataError, match="there is no folder"):
        pipeline.train(
            recipe, out=None, data_root=tmp_path / "none", device="cpu", display=lambda *_: nullcontext(), notice=print
        )
