"""Predictions of image files are those that the run stored for the same images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lcprune import runs
from lcprune_runtime import contact_sheet
from lcprune_runtime import predict as pipeline
from lcprune_runtime.images import read_image
from lcprune_runtime.predict import predict

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


def test_a_model_and_images_whose_names_are_not_ascii(run: Path, digit_folder: Path, here: Path) -> None:
    model = (run / "export/progressive.onnx").rename(here / "\u58eb\u5927\u592b.onnx")
    images = digit_folder.rename(here / "gr\u00f6\u00dfe \u65e5\u672c")
    assert len(predict(model, [images])["images"]) == 20


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


def test_a_contact_sheet_shows_every_image_with_what_was_predicted(
    run: Path, digit_folder: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[contact_sheet.Cell] = []
    draw = contact_sheet.draw

    def spied(cells: list[contact_sheet.Cell], columns: int, remark: str) -> Image.Image:
        drawn.extend(cells)
        return draw(cells, columns, remark)

    monkeypatch.setattr(contact_sheet, "draw", spied)
    result = predict(run / "export/progressive.onnx", [digit_folder], here / "sheet.png", columns=5)
    assert result["grid"] == str(here / "sheet.png")
    rows = result["images"]
    assert [(cell.label, cell.confidence, cell.exit_name, cell.depth) for cell in drawn] == [
        (row["class"], row["confidence"], row["exit"], row["exit_index"] / 3) for row in rows
    ]
    assert [cell.name for cell in drawn] == [Path(row["image"]).name for row in rows]
    first = read_image(Path(rows[0]["image"]), None, 3)
    assert np.array_equal(np.asarray(drawn[0].picture)[::18, ::18], first.transpose(1, 2, 0))  # 8 to 144 pixels
    with Image.open(here / "sheet.png") as sheet:
        assert sheet.size == draw(drawn, 5, "").size


def test_a_large_contact_sheet_is_cut_and_says_so(
    run: Path, digit_folder: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "MOST_CELLS", 7)
    monkeypatch.setattr(contact_sheet, "draw", lambda cells, columns, remark: drawn.append((len(cells), remark)))
    monkeypatch.setattr(contact_sheet, "save", lambda sheet, path: None)
    drawn: list[tuple[int, str]] = []
    assert len(predict(run / "export/progressive.onnx", [digit_folder], here / "sheet.png")["images"]) == 20
    assert drawn == [(7, "the first 7 of 20 images")]
