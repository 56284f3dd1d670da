"""Predictions of image files are those that the run stored for the same images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lcprune import runs
from lcprune.errors import DataError
from lcprune.pipeline import predict as pipeline
from lcprune.pipeline.predict import predict

THRESHOLDS = (0.5, 0.4, 0.3)  # of the exported file


def test_class_confidence_and_exit_of_every_image(run: Path, digit_folder: Path) -> None:
    arrays = runs.read_predictions(run)
    exponents = np.exp(arrays["test_logits"].astype(np.float64))
    probabilities = exponents / exponents.sum(2, keepdims=True)  # (4, 360, 10)
    result = predict(run / "export/progressive.onnx", [digit_folder])
    assert len(result["images"]) == 20
    exits = set()
    for row in result["images"]:
        of_exits = probabilities[:, int(Path(row["image"]).stem)]
        leaves = [k for k, threshold in enumerate(THRESHOLDS) if of_exits[k].max() >= threshold]
        k = min(leaves, default=3)
        assert (row["exit_index"], row["class"]) == (k, str(of_exits[k].argmax()))
        assert row["exit"] == ["sub-model 1", "sub-model 2", "sub-model 3", "main"][k]
        assert row["confidence"] == pytest.approx(of_exits[k].max(), abs=1e-4)
        exits.add(k)
    assert len(exits) > 1
    macs = {row["exit_index"]: row["macs_ratio"] for row in result["images"]}
    assert sorted(macs) == sorted(macs, key=lambda k: macs[k])


def test_batches_leave_no_trace(run: Path, digit_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = run / "export/progressive.onnx"
    whole = predict(model, [digit_folder])["images"]
    monkeypatch.setattr(pipeline, "BATCH", 7)
    parts = predict(model, [digit_folder])["images"]
    assert [row["class"] for row in parts] == [row["class"] for row in whole]
    assert [row["confidence"] for row in parts] == pytest.approx([row["confidence"] for row in whole], abs=1e-6)


def test_files_and_folders_in_the_order_given_at_any_size(run: Path, digit_folder: Path, here: Path) -> None:
    Image.new("RGB", (31, 17), (200, 0, 0)).save(here / "large.png")
    result = predict(run / "export/progressive.onnx", [here / "large.png", digit_folder / "0"])
    names = [Path(row["image"]).name for row in result["images"]]
    assert names[0] == "large.png"
    assert len(names) > 1
    assert names[1:] == sorted(names[1:])


def test_nothing_is_predicted_if_one_image_is_missing(run: Path, digit_folder: Path) -> None:
    with pytest.raises(DataError, match="there is no image missing.png"):
        predict(run / "export/progressive.onnx", [digit_folder, Path("missing.png")])
