"""Exported files give the same exits and labels on other processors, which qemu emulates."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcprune import runs
from lcprune.data.sources import read_digits
from lcprune.pipeline.export import ExportRequest, export
from lcprune.specs import PRECISIONS
from lcprune_runtime.criterion import scores
from lcprune_runtime.segment_session import open_model
from lcprune_runtime.session import Prediction
from tests.trials.processors import PROCESSORS, Difference, UnavailableError, arm64_python, difference, emulated
from tests.trials.processors import predictions as predicted

IMAGES = 100
FORMS: dict[str, dict[str, Any]] = {
    "nested": {"segments": True},
    "flat": {"layout": "flat"},
    "batch1": {"batch": 1},
    "int8": {"segments": True, "precision": "int8"},
    "flat-int8": {"layout": "flat", "precision": "int8"},
    "batch1-int8": {"batch": 1, "precision": "int8"},
    "ort-int8": {
        "file_format": "ort",
        "precision": "int8",
    },  # for which no session option of onnxruntime avoids overflow
}


@pytest.fixture(scope="module")
def files(
    tmp_path_factory: pytest.TempPathFactory, _finished_run: Path, asked: Callable[..., ExportRequest]
) -> list[Path]:
    """Every form of one run of digits: files, and folders of segments."""
    folder = tmp_path_factory.mktemp("processors")
    run = shutil.copytree(_finished_run, folder / "run")
    ordered = np.sort(scores(runs.read_predictions(run)["test_logits"][:-1, :IMAGES])[0], axis=1)
    halves = ordered[:, IMAGES // 2 - 1 : IMAGES // 2 + 1].mean(axis=1)  # about half of the images leave at each exit
    threshold = ",".join(map(str, halves))
    for name, options in FORMS.items():
        path = folder / f"{name}.{options.get('file_format', 'onnx')}"
        export(run, asked(threshold=threshold, output=path, **options), notice=lambda _: None)
    return sorted(path for pattern in ("*.onnx", "*.ort", "*-segments") for path in folder.glob(pattern))


@pytest.mark.slow
def test_every_processor_gives_the_same_exits_and_labels(files: list[Path], tmp_path: Path) -> None:
    images = read_digits()[1].images[:IMAGES]
    here = predicted(files, images)
    thresholds = open_model(files[0]).info.thresholds
    assert len(files) == len(FORMS) + 2
    assert np.bincount(here[0].exits).min() > 0
    try:
        there = {processor.name: emulated(processor, files, images, tmp_path) for processor in PROCESSORS[:1]}
        arm64_python(tmp_path)
        there |= {processor.name: emulated(processor, files, images, tmp_path) for processor in PROCESSORS[1:]}
    except UnavailableError as error:
        pytest.skip(str(error))
    for name, results in there.items():
        for file, mine, result in zip(files, here, results, strict=True):
            found = difference(mine, result, thresholds)
            assert (found.exits, found.labels) == (0, 0), f"{file.name} on {name}: {found}"
            assert found.logits <= PRECISIONS["fp32"].max_relative_diff, f"{file.name} on {name}: {found}"


def test_what_differs_is_counted() -> None:
    here = Prediction(
        labels=np.array([0, 1, 0, 1]),
        confidences=np.array([0.9, 0.8, 0.500005, 0.7], np.float32),
        exit_indices=np.array([0, 0, 0, 1]),
        logits=np.array([[4, 0], [0, 2], [1, 0], [0, 1]], np.float32),
    )
    there = Prediction(
        labels=np.array([0, 0, 1, 1]),  # the third one left late, and has another class there
        confidences=np.array([0.9, 0.8, 0.9, 0.6], np.float32),
        exit_indices=np.array([0, 0, 1, 0]),
        logits=np.array([[4, 1], [0, 2], [0, 3], [0, 1]], np.float32),
    )
    assert difference(here, there, [0.5]) == Difference(images=4, exits=1, labels=1, near_threshold=1, logits=0.25)
