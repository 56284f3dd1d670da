"""Segments, driven by their manifest alone, leave where the graph leaves."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from lcprune.errors import ExportError, OnnxModelError
from lcprune.exporters.progressive import stitch
from lcprune.exporters.quantize import reduce
from lcprune.exporters.segments import write_segments
from lcprune.exporters.verify import Reference, stage_logits
from lcprune.specs import CRITERIA, Criterion
from lcprune_runtime.criterion import exit_scores
from lcprune_runtime.metadata import ModelInfo, load_model
from lcprune_runtime.segment_session import SegmentedSession, open_model
from lcprune_runtime.session import open_session

MakeInfo = Callable[..., ModelInfo]
StagesOf = Callable[..., list[onnx.ModelProto]]
THRESHOLDS = (0.45, 0.4, 0.35)
TEMPERATURES = (0.7, 1.0, 1.6, 1.2)


@pytest.fixture(scope="module")
def about(make_info: MakeInfo) -> Callable[..., ModelInfo]:
    def make(**changes: Any) -> ModelInfo:
        plain = dataclasses.replace(
            make_info(0, 1, 2, 3), kind="progressive", thresholds=THRESHOLDS, temperatures=TEMPERATURES
        )
        return dataclasses.replace(plain, **changes)

    return make


@pytest.fixture(scope="module")
def segments(
    tmp_path_factory: pytest.TempPathFactory, stages_of: StagesOf, about: Callable[..., ModelInfo], images: np.ndarray
) -> Path:
    folder = tmp_path_factory.mktemp("segments") / "model-segments"
    write_segments(stages_of(0, 1, 2), reference(stages_of(0, 1, 2), images), folder, about())
    return folder


def reference(stages: list[onnx.ModelProto], images: np.ndarray) -> Reference:
    """Within the bound of fp16, the widest of all."""
    return Reference.of_stages(stages, images, "fp16")


def drive(folder: Path, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A host that knows nothing but the manifest; as docs/onnx.md has it."""
    manifest = json.loads((folder / "manifest.json").read_text())
    tensors, rows = {"image": images}, np.arange(len(images))
    logits = np.zeros((len(images), len(manifest["metadata"]["classes"])), np.float32)
    confidences, exits = np.zeros(len(images), np.float32), np.zeros(len(images), np.int64)
    for k, segment in enumerate(manifest["segments"]):
        session = onnxruntime.InferenceSession(folder / segment["file"])
        names = [value["name"] for value in segment["outputs"]]
        results = session.run(names, {value["name"]: tensors[value["name"]] for value in segment["inputs"]})
        tensors |= dict(zip(names, results, strict=True))
        logits[rows], confidences[rows], exits[rows] = tensors["logits"], tensors["confidence"], k
        if segment["threshold"] is None:
            break
        stays = ~(tensors["confidence"] >= segment["threshold"])  # so that NaN stays
        rows, tensors = rows[stays], {name: value[stays] for name, value in tensors.items()}
    return logits, confidences, exits


def between_the_middle_two(scores: np.ndarray) -> float:
    """A threshold that half of the images reach, of those above 0: `agreement` gives 0 to a new class."""
    ordered = np.sort(scores[scores > 0])
    return float(ordered[len(ordered) // 2 - 1 : len(ordered) // 2 + 1].mean())


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("precision", ["fp32", "int8", "fp16"])
def test_a_host_with_the_manifest_alone_gets_the_exits_of_the_graph(
    stages_of: StagesOf,
    about: Callable[..., ModelInfo],
    images: np.ndarray,
    tmp_path: Path,
    precision: Any,
    criterion: Criterion,
) -> None:
    stages: Any = stages_of(0, 1, 2)
    if precision != "fp32":
        stages = reduce(stages, precision, images).stages
    scores = exit_scores(stage_logits(stages, images)[:-1], criterion, TEMPERATURES[:-1])[0]
    thresholds = tuple(map(between_the_middle_two, scores))
    info = about(criterion=criterion, thresholds=thresholds)
    folder = tmp_path / "model-segments"
    assert write_segments(stages, reference(stages, images), folder, info).exits_agree
    graph = open_session(stitch(stages, thresholds, "none", criterion, TEMPERATURES).SerializeToString(), "the graph")
    pixels = images.astype(np.float32) / 255
    pixels[7, 0, 0, 0] = np.nan
    expected_logits, expected_exits = graph.run(["logits", "exit_index"], {"image": pixels})
    logits, confidences, exits = drive(folder, pixels)
    assert exits.tolist() == expected_exits.tolist()
    assert len(set(exits.tolist())) > 2
    assert exits[7] == 3
    tolerance = 1e-5 if precision != "fp16" else 1e-2
    np.testing.assert_allclose(logits, expected_logits, rtol=1e-4, atol=tolerance)
    said = SegmentedSession(folder)(pixels)
    assert said.exits.tolist() == exits.tolist()
    np.testing.assert_allclose(said.confidences, confidences, rtol=1e-4, atol=tolerance)


def test_what_the_manifest_says(segments: Path) -> None:
    manifest = json.loads((segments / "manifest.json").read_text())
    assert (manifest["format"], manifest["criterion"]) == (1, "softmax")
    assert [entry["file"] for entry in manifest["segments"]] == [f"segment-{k}.onnx" for k in (1, 2, 3, 4)]
    assert [entry["exit"] for entry in manifest["segments"]] == ["exit 0", "exit 1", "exit 2", "exit 3"]
    assert [entry["threshold"] for entry in manifest["segments"]] == [*(float(np.float32(t)) for t in THRESHOLDS), None]
    assert [entry["temperature"] for entry in manifest["segments"]] == list(TEMPERATURES)
    ends = [
        [[value["name"] for value in entry[kind]] for kind in ("inputs", "outputs")] for entry in manifest["segments"]
    ]
    assert ends == [
        [["image"], ["hidden.1", "logits", "confidence", "nan_guard"]],
        [["hidden.1", "nan_guard"], ["hidden.2", "logits", "confidence"]],
        [["hidden.2", "nan_guard"], ["hidden.3", "logits", "confidence"]],
        [["hidden.3"], ["logits", "confidence"]],
    ]
    assert manifest["segments"][0]["inputs"] == [{"name": "image", "type": "float32", "shape": ["batch", 3, 8, 8]}]
    assert manifest["segments"][0]["outputs"][0]["shape"] == ["batch", 4, 4, 4]
    assert manifest["metadata"]["classes"] == [f"class {n}" for n in range(5)]
    for entry in manifest["segments"]:
        model = onnx.load(segments / entry["file"])
        onnx.checker.check_model(model, full_check=True)
        assert (segments / entry["file"]).stat().st_size == entry["size_bytes"]


def test_two_segments_hand_nothing_on_that_nobody_needs(
    stages_of: StagesOf, about: Callable[..., ModelInfo], images: np.ndarray, make_info: MakeInfo, tmp_path: Path
) -> None:
    exits = make_info(1, 3)
    info = about(exits=exits.exits, exit_macs=exits.exit_macs, thresholds=(0.4,), temperatures=(1.0, 1.0))
    info = dataclasses.replace(info, criterion="agreement")
    write_segments(stages_of(1), reference(stages_of(1), images), tmp_path / "two", info)
    names = [[value.name for value in onnx.load(tmp_path / "two" / f"segment-{k}.onnx").graph.output] for k in (1, 2)]
    assert names == [["hidden.1", "logits", "confidence"], ["logits", "confidence"]]


def test_segments_for_one_image_have_no_open_dimension(
    stages_of: StagesOf, about: Callable[..., ModelInfo], images: np.ndarray, segments: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "one"
    write_segments(stages_of(0, 1, 2), reference(stages_of(0, 1, 2), images), folder, about(batch=1))
    for path in sorted(folder.glob("*.onnx")):
        graph = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True, data_prop=True).graph
        for value in (*graph.value_info, *graph.input, *graph.output):
            assert all(dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim), (path, value.name)
    for rows in (0, 1, 5):
        got, expected = SegmentedSession(folder)(images[:rows]), SegmentedSession(segments)(images[:rows])
        assert got.exits.tolist() == expected.exits.tolist()
        assert got.logits.shape == (rows, 5)


def test_thresholds_of_a_call(segments: Path, images: np.ndarray) -> None:
    session = open_model(segments / "manifest.json")
    assert isinstance(session, SegmentedSession)
    assert set(session(images, 2.0).exits.tolist()) == {3}
    assert set(session(images, [2.0, 0.0, 0.0]).exits.tolist()) == {1}
    with pytest.raises(OnnxModelError, match="takes 3 thresholds, not 2"):
        session(images, [0.5, 0.5])


def damaged(segments: Path, tmp_path: Path, change: Callable[[Path], object]) -> Path:
    folder = tmp_path / "damaged"
    shutil.copytree(segments, folder)
    change(folder)
    return folder


def rewrite(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "cannot be read"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "is no JSON"),
        (lambda folder: (folder / "segment-2.onnx").unlink(), "cannot be read"),
        (lambda folder: shutil.copy(folder / "segment-3.onnx", folder / "segment-2.onnx"), "its SHA-256 is another"),
        (lambda folder: rewrite(folder, format=2), "is no manifest"),
        (lambda folder: rewrite(folder, metadata=None), "has no metadata"),
        (lambda folder: rewrite(folder, segments=[]), "one file for each exit"),
        (lambda folder: rewrite(folder, segments=[{}] * 4), "is damaged"),
    ],
)
def test_damaged_segments(segments: Path, tmp_path: Path, change: Callable[[Path], object], problem: str) -> None:
    with pytest.raises(OnnxModelError, match=problem):
        SegmentedSession(damaged(segments, tmp_path, change))


def test_a_segment_is_no_model(segments: Path) -> None:
    with pytest.raises(OnnxModelError, match="segment 2 of 4 of a model"):
        load_model(segments / "segment-2.onnx")


def test_segments_that_do_something_else_get_no_folder(
    stages_of: StagesOf, about: Callable[..., ModelInfo], images: np.ndarray, tmp_path: Path
) -> None:
    """An impossible limit stands for a fault."""
    impossible = dataclasses.replace(reference(stages_of(0, 1, 2), images), max_relative_diff=-1.0)
    with pytest.raises(ExportError, match=r"differs|NaN"):
        write_segments(stages_of(0, 1, 2), impossible, tmp_path / "model", about())
    assert list(tmp_path.iterdir()) == []
