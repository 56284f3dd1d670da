"""What tools of others make of a progressive file, as docs/onnx.md says it."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from lcprune_runtime.session import open_session
from tests.environments import with_packages

MNN = """
import sys
import MNN.expr as F
import MNN.nn as nn
import numpy as np

pixels = np.load(sys.argv[2])
network = nn.load_module_from_file(sys.argv[1], ["image"], ["logits", "exit_index"])
outputs = [network.forward([F.const(row[None], [1, *row.shape], F.NCHW)]) for row in pixels]
np.savez(sys.argv[3], *(np.concatenate([np.array(each[k].read()).reshape(1, -1) for each in outputs]) for k in (0, 1)))
"""
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


@pytest.mark.slow
@pytest.mark.installs
def test_mnn_runs_a_file_of_batch_1_and_takes_wrong_exits_in_others(
    written: Written, tmp_path: Path, images: np.ndarray
) -> None:
    python = with_packages(tmp_path / "env", ["MNN>=3.6"])
    (tmp_path / "run.py").write_text(MNN)
    np.save(tmp_path / "pixels.npy", images.astype(np.float32) / np.float32(255))

    def exits(**options: Any) -> tuple[np.ndarray, np.ndarray]:
        """Of MNN and of onnxruntime; the logits are the same."""
        path = tmp_path / "model.onnx"
        written(path, "none", **options)
        convert = [python.with_name("mnnconvert"), "-f", "ONNX", "--modelFile", path, "--bizCode", "x"]
        subprocess.run([*convert, "--MNNModel", tmp_path / "m.mnn"], check=True, capture_output=True)
        arguments = [tmp_path / name for name in ("run.py", "m.mnn", "pixels.npy", "out.npz")]
        subprocess.run([python, *arguments], check=True, capture_output=True)
        found = np.load(tmp_path / "out.npz")
        rows = [run(path, row[None]) for row in np.load(tmp_path / "pixels.npy")]
        np.testing.assert_allclose(found["arr_0"], np.concatenate([row[0] for row in rows]), atol=1e-4)
        return found["arr_1"].reshape(-1), np.concatenate([row[1] for row in rows])

    assert np.array_equal(*exits(batch=1))
    assert not np.array_equal(*exits())
