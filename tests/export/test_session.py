import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from lcprune.errors import OnnxModelError
from lcprune.export.metadata import ModelInfo
from lcprune.export.progressive import write_progressive
from lcprune.export.session import CHUNK, OnnxClassifier, softmax_confidence
from lcprune.models.network import Network

MakeInfo = Callable[..., ModelInfo]

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
import numpy as np
from lcprune.export.session import OnnxClassifier
print(OnnxClassifier(sys.argv[1]).run(np.zeros((2, 3, 8, 8), np.float32)).labels.shape)
"""


def test_it_runs_with_torch_blocked(exported: Path) -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, str(exported)], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "(2,)", "")


def test_softmax_confidence() -> None:
    rows = np.array([[0.0, 0.0], [np.log(3.0), 0.0], [1000.0, 0.0], [np.inf, 0.0], [np.nan, 0.0]], np.float32)
    np.testing.assert_allclose(softmax_confidence(rows), [0.5, 0.75, 1.0, np.nan, np.nan], rtol=1e-6)


def test_a_prediction_fits_together(exported: Path, images: np.ndarray, torch_logits: np.ndarray) -> None:
    prediction = OnnxClassifier(exported, threads=1).run(images.astype(np.float32) / 255)
    expected = torch_logits[prediction.exit_indices, np.arange(33)]
    np.testing.assert_allclose(prediction.logits, expected, rtol=1e-4, atol=1e-5)
    assert prediction.labels.tolist() == prediction.logits.argmax(1).tolist()
    np.testing.assert_array_equal(prediction.confidences, softmax_confidence(prediction.logits))
    assert len(set(prediction.exit_indices.tolist())) > 1


def test_more_images_than_go_through_together(exported: Path) -> None:
    images = np.random.default_rng(0).random((CHUNK + 3, 3, 8, 8), dtype=np.float32)
    classifier = OnnxClassifier(exported)
    whole = classifier.run(images)
    assert whole.labels.shape == (CHUNK + 3,)
    np.testing.assert_allclose(whole.logits[-3:], classifier.run(images[-3:]).logits, rtol=1e-5, atol=1e-6)
    assert classifier.run(images[:0]).logits.shape == (0, 5)


def test_exit_logits_are_those_of_torch(exported: Path, images: np.ndarray, torch_logits: np.ndarray) -> None:
    got = OnnxClassifier(exported).exit_logits(images.astype(np.float32) / 255)
    np.testing.assert_allclose(got, torch_logits, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("quick_export")
def test_thresholds_that_do_not_fit(
    exported: Path, network4: Network, images: np.ndarray, make_info: MakeInfo, tmp_path: Path
) -> None:
    one = np.zeros((1, 3, 8, 8), np.float32)
    with pytest.raises(OnnxModelError, match="takes 3 thresholds, not 2"):
        OnnxClassifier(exported).run(one, [0.5, 0.5])
    fixed = tmp_path / "fixed.onnx"
    write_progressive(network4, [1], [0.5], fixed, make_info(1, 3), images, "none")
    with pytest.raises(OnnxModelError, match="are fixed"):
        OnnxClassifier(fixed).run(one, [0.5])


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (1, 3, 8, 9), (3, 8, 8)])
def test_images_that_do_not_fit(exported: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="images are"):
        OnnxClassifier(exported).run(np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match="images are"):
        OnnxClassifier(exported).run(np.zeros((1, 3, 8, 8), np.uint8))


def test_a_graph_that_onnxruntime_refuses(exported: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = onnx.load(exported)
    model.graph.node[0].op_type = "NoSuchOperator"
    path = tmp_path / "broken.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(OnnxModelError, match="cannot load broken.onnx"):
        OnnxClassifier(path)
    assert capfd.readouterr().out == ""


def test_a_graph_without_the_outputs_of_its_kind(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(exported)
    del model.graph.output[1]
    path = tmp_path / "broken.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(OnnxModelError, match="inputs and outputs"):
        OnnxClassifier(path)
