"""Accuracy on a folder of images, and models side by side on it: three images, of which the last has a wrong label."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image
from typer.testing import CliRunner

from lcprune.cli import app
from lcprune.pipeline.export import ExportRequest, export
from lcprune_runtime import ProgressiveSession
from lcprune_runtime.bench import bench
from lcprune_runtime.errors import DataError, OnnxModelError
from lcprune_runtime.evaluate import evaluate


@pytest.fixture
def folder(run: Path, tmp_path: Path) -> Path:
    session = ProgressiveSession(run / "export/progressive.onnx")
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8)
    labels = session(images[:, None]).labels.tolist()
    for index, label in enumerate([*labels[:2], (labels[2] + 1) % 10]):
        of_class = tmp_path / "images" / session.info.classes[label]
        of_class.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[index]).save(of_class / f"{index}.png")
    return tmp_path / "images"


def test_the_evaluation_of_a_folder(run: Path, folder: Path) -> None:
    result = evaluate(run / "export/progressive.onnx", folder)
    assert result["samples"] == 3
    assert result["progressive"][0]["accuracy_pct"] == pytest.approx(200 / 3)
    assert [row["name"] for row in result["exits"]] == ["sub-model 1", "sub-model 2", "sub-model 3", "main"]


def test_models_side_by_side_on_images(run: Path, folder: Path) -> None:
    model = run / "export/progressive.onnx"
    rows = bench([model, model], runs=1, data=folder)
    evaluated = evaluate(model, folder)["progressive"][0]
    for row in rows:
        assert (row["images"], row["accuracy_pct"]) == (3, pytest.approx(200 / 3))
        assert row["exit_fractions"] == pytest.approx(evaluated["exit_fractions"])
        assert 0 < row["latency_mean_ms"] == pytest.approx(row["ratio"] * rows[0]["latency_mean_ms"])
    done = CliRunner().invoke(app, ["bench", str(model), "--data", str(folder)])
    assert (done.exit_code, "each of 3 images once" in done.output, "66.67" in done.output) == (0, True, True)


def test_a_file_without_metadata_is_read_as_the_first_one_that_has_it(run: Path, folder: Path) -> None:
    """As quantize_static leaves a file that was exported."""
    ours = run / "export/progressive.onnx"
    bare = make_bare(run, folder.parent / "bare.onnx")
    plain, progressive = bench([bare, ours], runs=1, data=folder)
    assert (plain["kind"], progressive["kind"]) == ("plain", "progressive")
    assert plain["accuracy_pct"] == evaluate(ours, folder)["exits"][-1]["accuracy_pct"]
    assert plain["exit_fractions"] == [1.0]
    assert bench([ours, bare], runs=1)[1]["kind"] == "plain"
    with pytest.raises(OnnxModelError, match=r"bare.onnx was not written by lcprune: it has no lcprune metadata"):
        bench([bare], runs=1)


def make_bare(run: Path, path: Path) -> Path:
    """Main of a run as an ONNX file that says nothing about itself."""
    request = ExportRequest(False, "main", "auto", None, None, None, "optional", False, path)
    model = onnx.load(export(run, request, notice=lambda _: None)["path"])
    del model.metadata_props[:]
    onnx.save(model, path)
    return path


def test_without_images_every_exit_is_timed(run: Path) -> None:
    (row,) = bench([run / "export/progressive.onnx"], runs=2)
    assert len(row["exit_latency_ms"]) == 4
    assert min(row["exit_latency_ms"]) > 0


def test_images_of_other_classes_are_refused(run: Path, folder: Path) -> None:
    next(folder.iterdir()).rename(folder / "cat")
    with pytest.raises(DataError, match="cat is no class of the training images"):
        bench([run / "export/progressive.onnx"], runs=1, data=folder)


def test_accuracy_and_latency_of_the_images_that_can_be_read(run: Path, folder: Path) -> None:
    model, damaged = run / "export/progressive.onnx", next(folder.iterdir()) / "a-bad.png"
    before = evaluate(model, folder)
    damaged.write_bytes(b"")
    after = evaluate(model, folder)
    problem = f"{damaged} cannot be read as an image: it is empty"
    assert after["bad_images"] == [{"image": str(damaged), "problem": problem}]
    assert after["progressive"] == before["progressive"]
    (row,) = bench([model], runs=1, data=folder)
    assert (row["images"], row["bad_images"]) == (3, after["bad_images"])
    assert row["accuracy_pct"] == pytest.approx(before["progressive"][0]["accuracy_pct"])


@pytest.mark.parametrize("command", [("predict",), ("evaluate", "--data"), ("bench", "--data")])
def test_the_others_are_given_and_the_exit_code_says_whether_all_are(
    run: Path, folder: Path, command: tuple[str, ...], tmp_path: Path
) -> None:
    (next(folder.iterdir()) / "bad.png").write_bytes(b"no image")
    (tmp_path / "no-format.jpg").write_bytes(b"no image")
    words = [command[0], str(run / "export/progressive.onnx"), *command[1:], str(folder)]
    words += [str(tmp_path / "no-format.jpg"), str(tmp_path / "gone.png")] if command == ("predict",) else []
    count = 3 if command == ("predict",) else 1
    failed, skipped = (CliRunner().invoke(app, [*words, *more]) for more in ([], ["--on-bad-image", "skip"]))
    assert (failed.exit_code, skipped.exit_code) == (1, 0)
    assert f"error: images that cannot be read: {count}\n  fix: replace them, or --on-bad-image skip" in failed.stderr
    assert skipped.stderr == ""
    for done in (failed, skipped):
        assert f"cannot be read, left out: {count}" in done.stdout
        assert "bad.png cannot be read as an image: its format is not known" in done.stdout
    as_json = CliRunner().invoke(app, [*words, "--json"])
    content = json.loads(as_json.stdout)
    assert len((content[0] if command[0] == "bench" else content)["bad_images"]) == count
    assert (as_json.exit_code, as_json.stderr) == (1, failed.stderr)


def test_of_a_table_those_that_can_be_read_are_evaluated(run: Path, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    rows = ["path,label,split"]
    for index in range(30):
        Image.fromarray(draw.integers(0, 256, (8, 8), dtype=np.uint8)).save(tmp_path / f"{index}.png")
        rows.append(f"{index}.png,{index % 10},{'train' if index < 20 else 'test'}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    (tmp_path / "29.png").write_bytes(b"")
    (tmp_path / "r.yaml").write_text(
        f"name: r\ndata: {{source: manifest, manifest: t.csv, root: {tmp_path}, image_size: 8, channels: 1}}\n"
        "train: {iterations: 1}\n"
    )
    words = ["evaluate", str(run / "export/progressive.onnx"), "--data", str(tmp_path / "r.yaml"), "--json"]
    done = CliRunner().invoke(app, words)
    content = json.loads(done.stdout)
    assert (done.exit_code, content["samples"]) == (1, 9)
    assert [Path(row["image"]).name for row in content["bad_images"]] == ["29.png"]


def test_if_none_can_be_read_that_is_an_error(run: Path, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"")
    done = CliRunner().invoke(app, ["predict", str(run / "export/progressive.onnx"), str(tmp_path), "--json"])
    assert json.loads(done.stdout)["error"]["problem"].endswith("x.png cannot be read as an image: it is empty")


def test_a_run_is_no_model(run: Path, folder: Path) -> None:
    for words in (["predict", str(run), str(folder)], ["bench", str(run)]):
        done = CliRunner().invoke(app, words)
        assert f"{run} is a run, not an exported model" in done.stderr
