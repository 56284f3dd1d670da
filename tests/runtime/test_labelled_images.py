"""Accuracy on a folder of images, and models side by side on it: three images, of which the last has a wrong label."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from lcprune.cli import app
from lcprune_runtime import ProgressiveSession
from lcprune_runtime.bench import bench
from lcprune_runtime.errors import DataError
from lcprune_runtime.evaluate import evaluate


@pytest.fixture
def folder(run: Path, tmp_path: Path) -> Path:
    session = ProgressiveSession(run / "export/progressive.onnx")
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8)
    labels = session(images[:, None]).labels.tolist()
    for index, label in enumerate([*labels[:2], (labels[2] + 1) % 10]):
        of_class = tmp_path / "images" / session.info.classes[label]
        of_class.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[index]).save(of_class / f"{index}.png")
    return tmp_path / "images"


def test_the_evaluation_of_a_folder(run: Path, folder: Path) -> None:
    result = evaluate(run / "export/progressive.onnx", folder)
    assert result["samples"] == 3
    assert result["progressive"][0]["accuracy_pct"] == pytest.approx(200 / 3)
    assert [row["name"] for row in result["exits"]] == ["sub-model 1", "sub-model 2", "sub-model 3", "main"]


def test_models_side_by_side_on_images(run: Path, folder: Path) -> None:
    model = run / "export/progressive.onnx"
    rows = bench([model, model], runs=1, data=folder)
    evaluated = evaluate(model, folder)["progressive"][0]
    for row in rows:
        assert (row["images"], row["accuracy_pct"]) == (3, pytest.approx(200 / 3))
        assert row["exit_fractions"] == pytest.approx(evaluated["exit_fractions"])
        assert 0 < row["latency_mean_ms"] == pytest.approx(row["ratio"] * rows[0]["latency_mean_ms"])
    done = CliRunner().invoke(app, ["bench", str(model), "--data", str(folder)])
    assert (done.exit_code, "each of 3 images once" in done.output, "66.67" in done.output) == (0, True, True)


def test_without_images_every_exit_is_timed(run: Path) -> None:
    (row,) = bench([run / "export/progressive.onnx"], runs=2)
    assert len(row["exit_latency_ms"]) == 4
    assert min(row["exit_latency_ms"]) > 0


def test_images_of_other_classes_are_refused(run: Path, folder: Path) -> None:
    next(folder.iterdir()).rename(folder / "cat")
    with pytest.raises(DataError, match="cat is no class of the training images"):
        bench([run / "export/progressive.onnx"], runs=1, data=folder)
