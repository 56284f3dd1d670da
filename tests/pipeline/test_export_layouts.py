"""Every form of an export does what was announced, lies beside its model card, and is known to the run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lcprune import runs
from lcprune.errors import ExportError
from lcprune.pipeline import evaluate_onnx
from lcprune.pipeline import export as pipeline
from lcprune.pipeline.export import ExportRequest
from lcprune.specs import FORMATS
from lcprune_runtime.bench import bench
from tests.exporters import made_up_runtime

Asked = Callable[..., ExportRequest]
HAND = {"threshold": "0.45,0.35,0.3"}


def write(run: Path, request: ExportRequest) -> dict[str, Any]:
    return pipeline.export(run, request, notice=lambda _: None)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"layout": "flat"}, "progressive-flat.onnx"),
        ({"batch": 1}, "progressive-batch1.onnx"),
        ({"file_format": "ort"}, "progressive.ort"),
        ({"layout": "flat", "precision": "int8", "file_format": "ort"}, "progressive-flat-int8.ort"),
    ],
)
def test_a_form_does_what_was_announced(run: Path, asked: Asked, options: dict[str, Any], name: str) -> None:
    said = write(run, asked(**HAND, **options))
    assert Path(said["path"]).name == name
    own = evaluate_onnx.evaluate(Path(said["path"]), "digits", Path("data"))["progressive"][0]
    assert own["accuracy_pct"] == pytest.approx(said["test_accuracy_pct"], abs=1e-9)
    assert own["exit_fractions"] == pytest.approx(said["exit_fractions"], abs=1e-12)
    assert max(own["exit_fractions"]) < 1
    assert runs.changed_files(run) == []
    assert {Path(file).name for file in said["files"]} <= {Path(file).name for file in runs.recorded_files(run)}


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_segments(run: Path, asked: Asked, precision: str) -> None:
    said = write(run, asked(**HAND, precision=precision, segments=True))
    manifest = Path(said["segments"])
    own = evaluate_onnx.evaluate(manifest, "digits", Path("data"))["progressive"][0]
    assert own["accuracy_pct"] == pytest.approx(said["test_accuracy_pct"], abs=1e-9)
    assert own["exit_fractions"] == pytest.approx(said["exit_fractions"], abs=1e-12)
    folder = f"export/{manifest.parent.name}"
    assert f"{folder}/manifest.json" in runs.recorded_files(run)
    assert f"{folder}/segment-4.onnx" in runs.recorded_files(run)
    rows = bench([Path(said["path"]), manifest.parent, manifest], runs=2)
    assert [row["kind"] for row in rows] == ["progressive", "segments", "segments"]
    assert rows[1]["size_bytes"] == sum(path.stat().st_size for path in manifest.parent.glob("*.onnx"))
    assert rows[1]["latency_ms"] > 0

    write(run, asked(threshold="0.5", exits=("2",), precision=precision, segments=True))
    assert f"{folder}/segment-2.onnx" in runs.recorded_files(run)
    assert f"{folder}/segment-4.onnx" not in runs.recorded_files(run)
    assert runs.changed_files(run) == []


def test_onnxruntimes_format_comes_with_its_operators(run: Path, asked: Asked) -> None:
    said = write(run, asked(progressive=False, exit_name="2", file_format="ort", batch=1))
    assert Path(said["path"]).name == "sub-model-2-batch1.ort"
    text = Path(said["operators"]).read_text(encoding="utf-8")
    assert "ai.onnx;" in text
    assert str(run) not in text
    found = evaluate_onnx.evaluate(Path(said["path"]), "digits", Path("data"))
    assert found["exits"][0]["accuracy_pct"] == pytest.approx(said["test_accuracy_pct"], abs=1e-9)
    assert bench([Path(said["path"])], runs=2)[0]["kind"] == "submodel"


def test_a_format_of_another_runtime(run: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMATS, "executorch", made_up_runtime.SPEC)
    said = write(run, asked(progressive=False, exit_name="2", file_format="executorch"))
    assert [Path(file).name for file in said["files"]] == ["sub-model-2.pte", "sub-model-2.pte.md"]
    assert "as made up." in Path(said["card"]).read_text(encoding="utf-8")
    said = write(run, asked(**HAND, file_format="executorch"))
    folder = "export/progressive-executorch"
    assert Path(said["path"]) == run / folder
    assert said["size_bytes"] == sum(path.stat().st_size for path in Path(said["path"]).iterdir())
    assert f"{folder}/segment-4.pte" in runs.recorded_files(run)
    write(run, asked(threshold="0.5", exits=("2",), file_format="executorch"))
    assert f"{folder}/segment-4.pte" not in runs.recorded_files(run)
    assert runs.changed_files(run) == []


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"progressive": False, "layout": "flat", "exit_name": "1"}, "--layout is about progressive graphs"),
        ({"progressive": False, "segments": True, "exit_name": "1"}, "--segments is about progressive graphs"),
        ({"layout": "flat", "batch": 1}, "in a flat graph the rows get fewer"),
        ({"layout": "shared"}, "--layout shared is about int8 files"),
        ({"layout": "shared", "precision": "int8"}, "--layout shared is about networks of several image sizes"),
        ({"output": Path("x.ort")}, "--format onnx does not write x.ort"),
        ({"output": Path("x.onnx"), "file_format": "ort"}, "--format ort does not write x.onnx"),
        ({"file_format": "executorch", "precision": "int8"}, "--precision is not known to --format executorch"),
        ({"file_format": "litert", "segments": True}, "--segments is not known to --format litert"),
        ({"file_format": "coreml", "output": Path(".")}, ". is a folder"),
        (
            {"precision": "fp16", "file_format": "ort"},
            "--format ort does not take --precision fp16: onnxruntime",
        ),
    ],
)
def test_contradictions(run: Path, asked: Asked, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ExportError, match=problem):
        write(run, asked(**options))


def test_the_command(run: Path, cli: Callable[..., Any]) -> None:
    plain = cli("export", "--progressive", "--threshold", "0.4", "--batch", "1", "--segments")
    assert plain.exit_code == 0, plain.stderr
    assert "beside it: " in plain.stdout
    result = cli("export", "--progressive", "--threshold", "0.4", "--layout", "flat", "--format", "ort", "--json")
    content = json.loads(result.stdout)
    assert Path(content["card"]).name == "progressive-flat.ort.md"
    for name in (*content["files"], run / "export/progressive-batch1-segments/manifest.json"):
        assert cli("verify", name, "--quiet").exit_code == 0, name
    rows = json.loads(cli("bench", content["path"], "--runs", "1", "--json").stdout)
    assert rows[0]["kind"] == "progressive"
    assert cli("export", "--progressive", "--batch", "2").exit_code == 2
