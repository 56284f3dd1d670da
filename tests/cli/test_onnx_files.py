"""`lcprune evaluate`, `predict` and `bench` on .onnx files: what they refuse, what they print, and without torch."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

Cli = Callable[..., Any]
Refused = Callable[..., dict[str, str]]

OURS = "give an .onnx file that `lcprune export` wrote"


def foreign_model() -> bytes:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("image", "logits")]
    graph = helper.make_graph([helper.make_node("Relu", ["image"], ["logits"])], "g", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


@pytest.mark.parametrize(
    ("command", "damage"),
    [
        *((["predict", "{}", "a.png"], damage) for damage in ("missing", "folder", "text", "empty", "truncated")),
        *((command, "foreign") for command in (["bench", "{}"], ["evaluate", "{}", "--data", "digits"])),
    ],
)
def test_a_file_that_is_no_model_of_ours(
    run: Path, refused: Refused, here: Path, command: list[str], damage: str
) -> None:
    ours = (run / "export/progressive.onnx").read_bytes()
    contents = {"text": b"no model at all\n" * 20, "empty": b"", "truncated": ours[:-2000], "foreign": foreign_model()}
    problems = {
        "missing": "given.onnx cannot be read: No such file or directory",
        "folder": "given.onnx cannot be read: it is no file",
        "foreign": "given.onnx was not written by lcprune: it has no lcprune metadata",
    }
    if damage == "folder":
        (here / "given.onnx").mkdir()
    elif damage in contents:
        (here / "given.onnx").write_bytes(contents[damage])
    error = refused(*(part.format("given.onnx") for part in command))
    assert error == {
        "kind": "onnx",
        "problem": problems.get(damage, "given.onnx is no ONNX model, or it is damaged"),
        "fix": OURS,
    }


def test_a_file_to_evaluate_needs_data_and_a_run_has_its_own(run: Path, refused: Refused) -> None:
    error = refused("evaluate", run / "export/progressive.onnx")
    assert error["kind"] == "onnx"
    assert error["problem"].endswith("export/progressive.onnx needs images to be evaluated on")
    assert error["fix"] == "add --data with a recipe or a folder"
    error = refused("evaluate", run, "--data", "digits")
    assert error["problem"] == "a run is evaluated on its own images"


def test_data_that_does_not_fit(run: Path, refused: Refused, here: Path) -> None:
    model = run / "export/progressive.onnx"
    assert refused("evaluate", model, "--data", "digit")["fix"].startswith("did you mean digits?")
    (here / "rgb.yaml").write_text("name: rgb\ndata: {source: digits, channels: 3}\ntrain: {iterations: 1}\n")
    error = refused("evaluate", model, "--data", "rgb.yaml")
    assert error["problem"] == (
        "the images of rgb.yaml (10 classes, (3, 8, 8)) are not those that progressive.onnx was trained for "
        "(10 classes, (1, 8, 8))"
    )
    (here / "empty").mkdir()
    assert refused("evaluate", model, "--data", "empty")["problem"] == "empty has no class folders"
    (here / "letters/a").mkdir(parents=True)
    assert (
        "letters/a is no class of the training images (0, 1, 2"
        in refused("evaluate", model, "--data", "letters")["problem"]
    )


def test_images_that_cannot_be_read(run: Path, refused: Refused, digit_folder: Path, here: Path) -> None:
    model = run / "export/progressive.onnx"
    error = refused("predict", model, "nothing.png")
    assert error == {
        "kind": "data",
        "problem": "there is no image nothing.png",
        "fix": "check the path, and capitals in it",
    }
    damaged = here / "damaged.png"
    damaged.write_bytes(next(digit_folder.rglob("*.png")).read_bytes()[:50])
    error = refused("predict", model, damaged)
    assert error["problem"].startswith(f"{damaged} cannot be read as an image: ")
    assert error["fix"] == "replace the file, or remove it"
    damaged.write_text("text")
    assert "cannot be read as an image" in refused("predict", model, damaged)["problem"]
    (here / "empty").mkdir()
    assert refused("predict", model, "empty")["problem"] == "empty holds no images"


def test_predictions_as_json_and_as_a_table(run: Path, cli: Cli, digit_folder: Path) -> None:
    model = run / "export/progressive.onnx"
    result = cli("predict", model, digit_folder, "--json")
    content = json.loads(result.stdout)
    assert set(content) == {"model", "kind", "images", "bad_images"}
    assert len(content["images"]) == 20
    assert all(
        set(row) == {"image", "class", "confidence", "exit", "exit_index", "macs_ratio"} for row in content["images"]
    )
    lines = cli("predict", model, digit_folder).stdout.splitlines()
    assert lines[0].split() == ["image", "class", "confidence", "exit", "MACs", "of", "main"]
    first = content["images"][0]
    assert lines[1].split()[:2] == [first["image"], first["class"]]
    assert first["exit"] in lines[1]
    assert cli("predict", model, digit_folder, "--quiet").stdout == ""


def test_a_contact_sheet_of_a_folder(run: Path, here: Path, cli: Cli, refused: Refused, digit_folder: Path) -> None:
    model = run / "export/progressive.onnx"
    done = cli("predict", model, digit_folder, "--save-grid", "sheet.png", "--columns", "10")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1].rstrip() == "contact sheet: sheet.png"
    with Image.open(here / "sheet.png") as sheet:
        assert sheet.width > 10 * 144
    one = next(digit_folder.rglob("*.png"))
    content = json.loads(cli("predict", model, one, "--save-grid", "one.jpg", "--json").stdout)
    assert content["grid"] == "one.jpg"
    with Image.open(here / "one.jpg") as sheet:
        assert sheet.width < 2 * 144
    for name, problem in (("sheet.doc", "no suffix of an image format"), ("nowhere/sheet.png", "there is no folder")):
        assert problem in refused("predict", model, digit_folder, "--save-grid", name)["problem"]


def test_bench_sets_models_side_by_side(run: Path, cli: Cli) -> None:
    cli("export", "--exit", "1", "--quiet")
    models = [run / "export/sub-model-1.onnx", run / "export/progressive.onnx"]
    content = json.loads(cli("bench", *models, "--runs", "3", "--json").stdout)
    assert [row["model"] for row in content] == [str(path) for path in models]
    assert [row["kind"] for row in content] == ["submodel", "progressive"]
    assert [row["size_bytes"] for row in content] == [path.stat().st_size for path in models]
    assert all(0 < row["latency_ms"] <= row["latency_p95_ms"] for row in content)
    assert content[0]["ratio"] == 1
    assert content[1]["ratio"] == pytest.approx(content[1]["latency_ms"] / content[0]["latency_ms"])
    assert cli("bench", *models, "--runs", "0").exit_code == 2
    assert "runs taken in turn" in cli("bench", *models, "--runs", "3").stdout


def test_all_of_it_without_torch(run: Path, digit_folder: Path) -> None:
    script = """
import json, sys
for name in ("torch", "torchvision", "safetensors", "safetensors.torch", "fvcore"):
    sys.modules[name] = None  # an import of it fails
from typer.testing import CliRunner
from lcprune.cli import app
model, folder = sys.argv[1:]
results = []
for command in (["predict", model, folder], ["bench", model, "--runs", "2"], ["evaluate", model, "--data", folder]):
    result = CliRunner().invoke(app, [*command, "--json"])
    results.append([result.exit_code, result.stdout, result.stderr])
print(json.dumps(results))
"""
    command = [sys.executable, "-c", script, str(run / "export/progressive.onnx"), str(digit_folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    results = json.loads(done.stdout)
    assert [result[0] for result in results] == [0, 0, 0], results
    predicted, benched, evaluated = (json.loads(result[1]) for result in results)
    assert len(predicted["images"]) == 20
    assert len(benched) == 1
    assert (evaluated["split"], evaluated["samples"]) == (str(digit_folder), 20)
    right = sum(Path(row["image"]).parent.name == row["class"] for row in predicted["images"])
    assert evaluated["progressive"][0]["accuracy_pct"] == pytest.approx(100 * right / 20)
