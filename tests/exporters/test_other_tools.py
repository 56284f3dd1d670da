"""What tools of others make of a progressive file, as docs/onnx.md says it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from lcprune_runtime.session import open_session

LEVEL = onnxruntime.GraphOptimizationLevel
Written = Callable[..., Any]


@pytest.fixture
def pixels(images: np.ndarray) -> np.ndarray:
    return images[:1].astype(np.float32) / np.float32(255)


def optimized(path: Path, level: Any) -> Path:
    """The file that onnxruntime's offline optimisation saves."""
    options, saved = onnxruntime.SessionOptions(), path.with_name("optimized.onnx")
    options.log_severity_level = 4
    options.graph_optimization_level, options.optimized_model_filepath = level, str(saved)
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return saved


def run(path: Path, pixels: np.ndarray) -> list[Any]:
    return list(open_session(path.read_bytes(), path.name).run(None, {"image": pixels}))


@pytest.mark.parametrize(
    ("options", "level"),
    [
        ({}, LEVEL.ORT_ENABLE_EXTENDED),
        ({"batch": 1}, LEVEL.ORT_ENABLE_EXTENDED),
        ({"layout": "flat"}, LEVEL.ORT_ENABLE_ALL),
    ],
)
def test_offline_optimisation_keeps_the_results(
    written: Written, tmp_path: Path, pixels: np.ndarray, options: dict[str, Any], level: Any
) -> None:
    path = tmp_path / "model.onnx"
    written(path, "optional", **options)
    for got, expected in zip(run(optimized(path, level), pixels), run(path, pixels), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_a_part_of_a_flat_file_can_be_extracted(written: Written, tmp_path: Path, pixels: np.ndarray) -> None:
    path, part = tmp_path / "model.onnx", tmp_path / "part.onnx"
    written(path, "optional", layout="flat")
    onnx.utils.extract_model(path, part, ["image", "threshold"], ["exit0.logits", "exit0.confidence"])
    feed = {"image": pixels, "threshold": np.full(3, 2, np.float32)}
    logits, _ = open_session(part.read_bytes(), part.name).run(None, feed)
    assert logits.shape == (1, 5)
    written(path, "optional")
    with pytest.raises(onnx.checker.ValidationError, match="topologically sorted"):
        onnx.utils.extract_model(path, part, ["image", "threshold"], ["logits"])
