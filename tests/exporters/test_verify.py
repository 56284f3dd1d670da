from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from lcprune.errors import ExportError
from lcprune.exporters.verify import Reference, check_parity, write_checked
from lcprune_runtime.criterion import row_scores
from lcprune_runtime.metadata import read_info
from lcprune_runtime.session import ProgressiveSession


def test_an_honest_file_passes(exported: Path, images: np.ndarray, torch_logits: np.ndarray) -> None:
    parity = check_parity(exported, Reference(images, torch_logits), read_info(exported).thresholds)
    assert parity.samples == 33
    assert parity.exits_agree
    assert parity.near_threshold == 0
    assert 0 <= parity.max_abs_diff <= 1e-4 * np.abs(torch_logits).max()
    pixels = images.astype(np.float32) / 255  # taken as they are
    assert check_parity(exported, Reference(pixels, torch_logits), read_info(exported).thresholds) == parity


def test_an_exit_that_no_image_reaches_is_checked_too(
    exported: Path, images: np.ndarray, torch_logits: np.ndarray
) -> None:
    thresholds = read_info(exported).thresholds
    reached = ProgressiveSession(exported)(images.astype(np.float32) / 255).exit_indices
    row = int(np.flatnonzero(reached == 0)[0])
    wrong = torch_logits.copy()
    wrong[3, row] += 1.0
    with pytest.raises(ExportError, match="differs from torch"):
        check_parity(exported, Reference(images[row : row + 1], wrong[:, row : row + 1]), thresholds)


@pytest.mark.parametrize("fault", [1.0, np.nan, np.inf])
def test_a_difference_is_found(exported: Path, images: np.ndarray, torch_logits: np.ndarray, fault: float) -> None:
    wrong = torch_logits.copy()
    wrong[3, 5, 0] += fault
    with pytest.raises(ExportError):
        check_parity(exported, Reference(images, wrong), read_info(exported).thresholds)


def test_another_exit_is_found(exported: Path, images: np.ndarray, torch_logits: np.ndarray) -> None:
    with pytest.raises(ExportError, match="another exit"):
        check_parity(exported, Reference(images, torch_logits), [0.999, 0.999, 0.999])


def test_a_row_on_its_threshold_is_excused_and_counted(
    exported: Path, images: np.ndarray, torch_logits: np.ndarray, tmp_path: Path
) -> None:
    thresholds = list(read_info(exported).thresholds)
    confidence = float(row_scores(torch_logits[0])[0][4])
    model = onnx.load(exported)
    default = next(tensor for tensor in model.graph.initializer if tensor.name == "threshold")
    default.CopyFrom(numpy_helper.from_array(np.float32([confidence - 4e-6, *thresholds[1:]]), "threshold"))
    path = tmp_path / "m.onnx"
    onnx.save(model, path)  # lets the row go; torch, with a threshold on the other side of it, would not
    parity = check_parity(path, Reference(images, torch_logits), [confidence + 4e-6, *thresholds[1:]])
    assert (parity.near_threshold, parity.exits_agree) == (1, True)
    with pytest.raises(ExportError, match="1 of 33 images leave at another exit"):
        check_parity(path, Reference(images, torch_logits), [confidence + 2e-5, *thresholds[1:]])


def test_no_images_are_no_check(exported: Path, images: np.ndarray, torch_logits: np.ndarray) -> None:
    with pytest.raises(ValueError, match="needs images"):
        check_parity(exported, Reference(images[:0], torch_logits[:, :0]), read_info(exported).thresholds)


def test_write_checked_keeps_the_last_version_only(tmp_path: Path) -> None:
    seen = []
    path = tmp_path / "new" / "m.onnx"
    write_checked([b"one", b"two"], path, lambda part: seen.append(part.read_bytes()))
    assert seen == [b"one", b"two"]
    assert path.read_bytes() == b"two"
    assert [entry.name for entry in path.parent.iterdir()] == ["m.onnx"]
