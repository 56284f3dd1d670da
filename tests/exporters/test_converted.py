"""Formats of other runtimes: what is converted, compared and written, with a runtime made up for the tests."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lcprune.errors import ExportError, ParityError
from lcprune.exporters.converted import write_converted
from lcprune.exporters.progressive import complete
from lcprune.exporters.verify import Parity, Reference
from lcprune.models.network import Network
from lcprune.specs import FORMATS
from lcprune_runtime.metadata import ModelInfo
from tests.exporters import made_up_runtime

Write = Callable[..., Parity | None]


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setitem(FORMATS, "executorch", made_up_runtime.SPEC)
    return made_up_runtime


@pytest.fixture
def write(
    runtime: Any, network4: Network, images: np.ndarray, torch_logits: np.ndarray, make_info: Callable[..., ModelInfo]
) -> Write:
    def written(path: Path, *kept: int, thresholds: tuple[float, ...] = ()) -> Parity | None:
        exits = [*kept, 3]
        info = complete(make_info(*exits, thresholds=thresholds), len(exits))
        reference = Reference(images, torch_logits[exits])
        return write_converted(network4, kept, reference, path, info, "executorch")

    return written


def test_a_sub_model_is_one_file(write: Write, tmp_path: Path, images: np.ndarray, torch_logits: np.ndarray) -> None:
    for _ in range(2):  # an older file is replaced
        parity = write(tmp_path / "main.pte")
    assert parity is not None
    assert parity.samples == 32
    assert parity.max_abs_diff < 1e-4
    assert [path.name for path in tmp_path.iterdir()] == ["main.pte"]
    (logits,) = made_up_runtime.load(tmp_path / "main.pte")(images[:1].astype(np.float32) / 255)
    np.testing.assert_allclose(logits, torch_logits[3, :1], atol=1e-4)


def test_a_progressive_model_is_its_stages(
    write: Write, tmp_path: Path, images: np.ndarray, torch_logits: np.ndarray
) -> None:
    folder = tmp_path / "progressive"
    parity = write(folder, 0, 2, thresholds=(0.6, 0.7))
    assert parity is not None
    assert parity.exits_agree
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [entry["threshold"] for entry in manifest["segments"]] == [pytest.approx(0.6), pytest.approx(0.7), None]
    assert [entry["outputs"] for entry in manifest["segments"]] == [["hidden", "logits"]] * 2 + [["logits"]]
    stages = [made_up_runtime.load(folder / entry["file"]) for entry in manifest["segments"]]
    exits = []
    for image in images.astype(np.float32) / 255:
        hidden = image[None]
        for entry, stage in zip(manifest["segments"], stages, strict=True):
            *passed_on, logits = stage(hidden)
            confidence = torch.from_numpy(logits[0]).softmax(0).max().item()
            if entry["threshold"] is None or confidence >= entry["threshold"]:
                break
            hidden = passed_on[0]
        exits.append(manifest["segments"].index(entry))
    scores = torch.from_numpy(torch_logits[[0, 2]]).softmax(2).amax(2).numpy()
    expected = np.where(scores[0] >= 0.6, 0, np.where(scores[1] >= 0.7, 1, 2))
    assert exits == expected.tolist()
    assert set(exits) == {0, 1, 2}


def test_a_file_that_computes_something_else_gets_no_name(
    write: Write, runtime: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "main.pte")
    before = (tmp_path / "main.pte").read_bytes()
    load = runtime.load
    monkeypatch.setattr(runtime, "load", lambda path: lambda image: [out + 0.1 for out in load(path)(image)])
    with pytest.raises(ParityError, match="main.pte differs from torch by"):
        write(tmp_path / "main.pte")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


def test_a_runtime_that_is_not_here_is_not_run(
    write: Write, runtime: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(runtime, "load")
    monkeypatch.setitem(FORMATS, "executorch", dataclasses.replace(runtime.SPEC, runs_here=False))
    assert write(tmp_path / "main.pte") is None


def test_what_cannot_be_converted_is_named(
    write: Write, runtime: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(*_: Any) -> None:
        raise RuntimeError("aten.weird is not known\nand more")

    monkeypatch.setattr(runtime, "convert", convert)
    with pytest.raises(ExportError) as caught:
        write(tmp_path / "main.pte")
    assert caught.value.problem == "numpy cannot convert the network: aten.weird is not known"
    assert not list(tmp_path.iterdir())


def test_a_package_that_is_missing_or_does_not_fit_is_named(
    write: Write, runtime: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FORMATS, "executorch", dataclasses.replace(runtime.SPEC, package="no_such_package"))
    with pytest.raises(ExportError, match="needs the package no_such_package") as caught:
        write(tmp_path / "main.pte")
    assert caught.value.fix == "pip install no_such_package"
    monkeypatch.setitem(FORMATS, "executorch", dataclasses.replace(runtime.SPEC, module="no_such_module"))
    with pytest.raises(ExportError, match="numpy cannot be imported beside torch"):
        write(tmp_path / "main.pte")
