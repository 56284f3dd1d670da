"""Files of reduced precision: held against their own stages, exactly where they are integers."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from lcprune.errors import ExportError, ParityError
from lcprune.exporters import verify
from lcprune.exporters.quantize import Quantization, Reduced, reduce
from lcprune.exporters.verify import stage_logits
from lcprune_runtime.metadata import ModelInfo
from lcprune_runtime.session import ProgressiveSession

MakeInfo = Callable[..., ModelInfo]
StagesOf = Callable[..., list[onnx.ModelProto]]


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(6).integers(0, 256, (40, 3, 8, 8), dtype=np.uint8)


@pytest.fixture(scope="module")
def int8(stages_of: StagesOf, images: np.ndarray) -> Reduced:
    return reduce(stages_of(0, 2), "int8", images)


@pytest.fixture(scope="module")
def in_w8(stages_of: StagesOf, images: np.ndarray) -> Reduced:
    return reduce(stages_of(0, 2), "w8", images)


def quantization_in(path: Path) -> Any:
    """What the file says was done to its numbers."""
    said = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    return json.loads(said["lcprune.quantization"])


@pytest.mark.parametrize("threshold_input", [None, "required", "none"])
def test_a_progressive_file(
    write_reduced: Callable[..., Any],
    int8: Reduced,
    images: np.ndarray,
    make_info: MakeInfo,
    tmp_path: Path,
    threshold_input: str | None,
) -> None:
    path, given = tmp_path / "model.onnx", [threshold_input] if threshold_input else []
    parity = write_reduced(int8, path, make_info(0, 2, 3, thresholds=[0.5, 0.4]), images, *given)
    assert (parity.samples, parity.max_abs_diff, parity.exits_agree) == (40, 0.0, True)
    session = ProgressiveSession(path)
    assert (session.info.kind, session.info.thresholds) == ("progressive", (0.5, 0.4))
    assert len(session.runtime.get_inputs()) == (2 if threshold_input == "required" else 1)
    assert len(session.runtime.get_overridable_initializers()) == (threshold_input is None)
    assert quantization_in(path) == int8.quantization.as_json()


def test_one_stage_is_a_submodel(
    write_reduced: Callable[..., Any], in_w8: Reduced, images: np.ndarray, make_info: MakeInfo, tmp_path: Path
) -> None:
    exit_only = onnx.ModelProto()
    exit_only.CopyFrom(in_w8.stages[0])
    del exit_only.graph.output[0]  # what is handed on
    path = tmp_path / "model.onnx"
    write_reduced(dataclasses.replace(in_w8, stages=(exit_only,)), path, make_info(0), images)
    session = ProgressiveSession(path)
    assert session.info.kind == "submodel"
    assert quantization_in(path) == in_w8.quantization.as_json()
    np.testing.assert_allclose(session(images).logits, stage_logits(in_w8.stages, images)[0], rtol=1e-5, atol=1e-5)


def test_a_convolution_that_is_not_int8_is_refused_where_it_should_be(
    write_reduced: Callable[..., Any],
    int8: Reduced,
    in_w8: Reduced,
    images: np.ndarray,
    make_info: MakeInfo,
    tmp_path: Path,
) -> None:
    one_more = int8.quantization.int8_convolutions + 1

    def write(reduced: Reduced) -> None:
        quantization: Quantization = dataclasses.replace(reduced.quantization, int8_convolutions=one_more)
        changed = dataclasses.replace(reduced, quantization=quantization)
        write_reduced(changed, tmp_path / "model.onnx", make_info(0, 2, 3, thresholds=[0.5, 0.4]), images)

    with pytest.raises(ExportError, match=f"{one_more - 1} of {one_more} convolutions are int8"):
        write(int8)
    assert not list(tmp_path.iterdir())
    write(in_w8)


def test_a_file_that_differs_from_its_stages_is_refused(
    write_reduced: Callable[..., Any],
    int8: Reduced,
    in_w8: Reduced,
    images: np.ndarray,
    make_info: MakeInfo,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By a digit, if it is of integers; by 1e-4 of the largest logit, if not."""

    def write(reduced: Reduced, off: float) -> None:
        wrong = stage_logits(reduced.stages, images)
        wrong[1] += np.float32(off * np.abs(wrong).max())
        monkeypatch.setattr(verify, "stage_logits", lambda *arguments: wrong)
        write_reduced(reduced, tmp_path / "model.onnx", make_info(0, 2, 3, thresholds=[0.0, 0.0]), images)

    with pytest.raises(ParityError, match="differs from its own stages"):
        write(int8, 1e-5)
    with pytest.raises(ParityError, match="differs from its own stages"):
        write(in_w8, 3e-4)
    assert not list(tmp_path.iterdir())
    write(in_w8, 1e-5)
