import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import lcprune
from lcprune import ProgressiveSession
from lcprune.errors import OnnxModelError
from lcprune.exporters.progressive import write_network
from lcprune.models.network import Network
from lcprune_runtime import session as module
from lcprune_runtime.criterion import row_scores
from lcprune_runtime.metadata import ModelInfo
from lcprune_runtime.session import CHUNK

MakeInfo = Callable[..., ModelInfo]

WITHOUT_TORCH = """
import sys, time
start = time.process_time()
import lcprune
seconds = time.process_time() - start
assert seconds < 0.1, f"import lcprune takes {seconds:.2f} s"
assert not {"torch", "onnx", "onnxruntime", "numpy"} & set(sys.modules)
if len(sys.argv) > 2:
    sys.modules["torch"] = None
import numpy as np
from lcprune import ProgressiveSession
print(ProgressiveSession(sys.argv[1])(np.zeros((2, 3, 8, 8), np.float32)).labels.shape)
assert not sys.modules.get("torch")
"""


@pytest.mark.parametrize("blocked", [[], ["blocked"]])
def test_it_starts_at_once_and_runs_without_torch(exported: Path, blocked: list[str]) -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH, str(exported), *blocked]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "(2,)", "")


def test_the_package_has_one_class() -> None:
    assert lcprune.ProgressiveSession is module.ProgressiveSession
    with pytest.raises(AttributeError, match="module 'lcprune' has no attribute 'Prediction'"):
        _ = lcprune.Prediction


def test_a_prediction_fits_together(exported: Path, images: np.ndarray, torch_logits: np.ndarray) -> None:
    prediction = ProgressiveSession(exported, threads=1)(images.astype(np.float32) / 255)
    expected = torch_logits[prediction.exit_indices, np.arange(33)]
    np.testing.assert_allclose(prediction.logits, expected, rtol=1e-4, atol=1e-5)
    assert prediction.labels.tolist() == prediction.logits.argmax(1).tolist()
    np.testing.assert_array_equal(prediction.confidences, row_scores(prediction.logits)[0])
    assert len(set(prediction.exit_indices.tolist())) > 1
    labels, confidences, exits = prediction
    assert labels is prediction.labels
    assert confidences is prediction.confidences
    assert exits is prediction.exits is prediction.exit_indices


def test_bytes_say_what_floats_say(exported: Path, images: np.ndarray) -> None:
    session = ProgressiveSession(exported)
    expected = session(images.astype(np.float32) / np.float32(255))
    for same in (images, images[:, :, :, ::-1].copy()[:, :, :, ::-1]):  # contiguous, and not
        got = session(same)
        np.testing.assert_array_equal(got.logits, expected.logits)
        np.testing.assert_array_equal(got.exits, expected.exits)


def test_one_image_is_a_batch_of_one(exported: Path, images: np.ndarray) -> None:
    session = ProgressiveSession(exported)
    one = session(images[3])
    assert one.labels.shape == one.confidences.shape == one.exits.shape == (1,)
    np.testing.assert_array_equal(one.logits, session(images[3:4]).logits)


@pytest.mark.parametrize("kind", [np.float32, np.uint8])
def test_more_images_than_go_through_together(exported: Path, kind: type) -> None:
    images = np.random.default_rng(0).integers(0, 2, (CHUNK + 3, 3, 8, 8)).astype(kind)
    session = ProgressiveSession(exported)
    whole = session(images)
    assert whole.labels.shape == (CHUNK + 3,)
    np.testing.assert_allclose(whole.logits[-3:], session(images[-3:]).logits, rtol=1e-5, atol=1e-6)
    none = session(images[:0])
    assert (none.logits.shape, none.labels.shape, none.exits.dtype) == ((0, 5), (0,), np.int64)


def test_calls_from_several_threads(exported: Path, images: np.ndarray) -> None:
    session = ProgressiveSession(exported, threads=1)
    settings = [[0.0, 0.0, 0.0], [2.0, 2.0, 2.0], None] * 8
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda thresholds: session(images, thresholds), settings))
    for prediction, thresholds in zip(got, settings, strict=True):
        np.testing.assert_array_equal(prediction.exits, session(images, thresholds).exits)


def test_exit_logits_are_those_of_torch(exported: Path, images: np.ndarray, torch_logits: np.ndarray) -> None:
    got = ProgressiveSession(exported).exit_logits(images.astype(np.float32) / 255)
    np.testing.assert_allclose(got, torch_logits, rtol=1e-4, atol=1e-5)


def test_thresholds_of_the_file_of_the_session_and_of_the_call(exported: Path, images: np.ndarray) -> None:
    of_file = ProgressiveSession(exported)
    assert set(of_file(images).exits.tolist()) == {0, 1, 2, 3}
    np.testing.assert_array_equal(of_file(images, of_file.info.thresholds).exits, of_file(images).exits)
    session = ProgressiveSession(exported, thresholds=[2, 0, 2])
    assert set(session(images).exits.tolist()) == {1}
    assert set(session(images, [2, 2, 0]).exits.tolist()) == {2}
    assert set(session(images, 2).exits.tolist()) == {3}  # one number for all
    assert set(session(images, 0.0).exits.tolist()) == {0}
    assert set(session(images).exits.tolist()) == {1}  # a call changes nothing for the next


@pytest.mark.usefixtures("quick_export")
def test_thresholds_that_do_not_fit(
    exported: Path, network4: Network, images: np.ndarray, make_info: MakeInfo, tmp_path: Path
) -> None:
    for wrong in ([0.5, 0.5], [], [[0.5, 0.5, 0.5]] * 2):
        with pytest.raises(OnnxModelError, match=f"takes 3 thresholds, not {np.size(wrong)}"):
            ProgressiveSession(exported)(images, wrong)
        with pytest.raises(OnnxModelError, match="takes 3 thresholds"):
            ProgressiveSession(exported, thresholds=wrong)
    with pytest.raises(OnnxModelError, match="not a number"):
        ProgressiveSession(exported)(images, [0.5, float("nan"), 0.5])
    fixed, submodel = tmp_path / "fixed.onnx", tmp_path / "submodel.onnx"
    write_network(network4, [1], fixed, make_info(1, 3, thresholds=[0.5]), images, "none")
    write_network(network4.truncated(1), (), submodel, make_info(0), images)
    for path, fix in ((fixed, "--threshold-input optional"), (submodel, "leave them out")):
        with pytest.raises(OnnxModelError, match=f"{path.name} are fixed") as refused:
            ProgressiveSession(path)(images, [0.5])
        assert fix in refused.value.fix


def test_providers_are_those_asked_for(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, real = [], onnxruntime.InferenceSession

    def record(*arguments: object, providers: list[object]) -> object:
        asked.append(providers)
        return real(*arguments, providers=providers)

    monkeypatch.setattr(module.onnxruntime, "InferenceSession", record)
    with_options = ("CPUExecutionProvider", {"use_arena": "0"})
    ProgressiveSession(exported)
    ProgressiveSession(exported, providers=[])
    ProgressiveSession(exported, providers=(with_options,))
    assert asked == [["CPUExecutionProvider"], ["CPUExecutionProvider"], [with_options]]


def test_a_provider_that_is_not_there(exported: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OnnxModelError, match="onnxruntime has no CUDAExecutionProvid, CoreML here") as refused:
        ProgressiveSession(exported, providers=["CUDAExecutionProvid", ("CoreML", {}), "CPUExecutionProvider"])
    assert ", ".join(onnxruntime.get_available_providers()) in refused.value.fix
    assert capfd.readouterr() == ("", "")


def test_a_provider_that_does_not_start(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class OnTheCpu:
        """What onnxruntime gives where the driver of a provider is missing."""

        def __init__(self, *_: object, **__: object) -> None: ...

        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(module.onnxruntime, "get_available_providers", lambda: ["Fast", "CPUExecutionProvider"])
    monkeypatch.setattr(module.onnxruntime, "InferenceSession", OnTheCpu)
    with pytest.raises(OnnxModelError, match="has Fast, but it does not start") as refused:
        ProgressiveSession(exported, providers=["Fast", "CPUExecutionProvider"])
    assert "CPUExecutionProvider" in refused.value.fix


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (1, 3, 8, 9), (1, 8, 8), (3, 8), (1, 1, 3, 8, 8)])
def test_images_that_do_not_fit(exported: Path, shape: tuple[int, ...]) -> None:
    for kind in (np.float32, np.uint8):
        with pytest.raises(ValueError, match=r"not float32 or uint8 \(N, 3, 8, 8\)"):
            ProgressiveSession(exported)(np.zeros(shape, kind))
    for kind in (np.float64, np.int64, np.float16, bool):  # whose range is not known
        with pytest.raises(ValueError, match="images are"):
            ProgressiveSession(exported)(np.zeros((1, 3, 8, 8), kind))


def test_floats_of_another_range_are_refused(exported: Path, images: np.ndarray) -> None:
    session = ProgressiveSession(exported)
    pixels = images.astype(np.float32) / 255 if images.dtype == np.uint8 else images.astype(np.float32)
    for wrong in (pixels * 255, pixels - 0.5):
        with pytest.raises(ValueError, match=r"float images are in 0\.\.1, and these reach from .* give uint8"):
            session(wrong)
    pixels[0, 0, 0, 0] = np.nan
    assert len(session(pixels).labels) == len(pixels)


def test_lists_become_arrays(exported: Path) -> None:
    session = ProgressiveSession(exported)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8), dtype=np.uint8)
    expected = session(pixels).logits
    np.testing.assert_array_equal(session(list(pixels)).logits, expected)
    np.testing.assert_array_equal(session(pixels.tolist()).logits, expected)
    np.testing.assert_allclose(session((pixels / 255).tolist()).logits, expected, atol=1e-5)
    with pytest.raises(ValueError, match="images are int64"):
        session((pixels.astype(int) + 200).tolist())


def test_a_graph_that_onnxruntime_refuses(exported: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = onnx.load(exported)
    model.graph.node[0].op_type = "NoSuchOperator"
    path = tmp_path / "broken.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(OnnxModelError, match="cannot load broken.onnx"):
        ProgressiveSession(path)
    assert capfd.readouterr().out == ""
    model = onnx.load(exported)
    del model.graph.output[1]  # of those that its kind has
    path.write_bytes(model.SerializeToString())
    with pytest.raises(OnnxModelError, match="inputs and outputs"):
        ProgressiveSession(path)
