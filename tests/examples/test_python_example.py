"""examples/python/classify_folder.py: the CSV says what `lcprune predict` says, and what could not be read."""

import csv
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lcprune import ProgressiveSession
from lcprune_runtime.images import read_image

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/python/classify_folder.py"
WITHOUT_TORCH = """
import runpy, sys
sys.modules["torch"] = None
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("classify_folder", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def classify(
    example: ModuleType, run: Path, digit_folder: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., int]:
    """``classify("--threshold", "2")``: exit code of the example on the digits, into ``results.csv``."""

    def call(*options: str, folder: Path = digit_folder, output: Path = here / "results.csv") -> int:
        arguments = [run / "export/progressive.onnx", folder, "--output", output, *options]
        monkeypatch.setattr(sys, "argv", ["classify_folder.py", *map(str, arguments)])
        return int(example.main())

    return call


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def test_it_says_what_predict_says_without_torch(
    run: Path, digit_folder: Path, here: Path, cli: Callable[..., Any]
) -> None:
    model = run / "export/progressive.onnx"
    command = [sys.executable, "-c", WITHOUT_TORCH, EXAMPLE, model, digit_folder, "--output", "results.csv"]
    done = subprocess.run([str(part) for part in command], cwd=here, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "results.csv: 20 images, 0 of them could not be read\n"
    predicted = json.loads(cli("predict", model, digit_folder, "--json").stdout)["images"]
    assert rows_of(here / "results.csv") == [
        {
            "file": Path(row["image"]).relative_to(digit_folder).as_posix(),
            "class": row["class"],
            "confidence": f"{row['confidence']:.6f}",
            "exit": row["exit"],
            "macs_ratio": f"{row['macs_ratio']:.6f}",
            "error": "",
        }
        for row in predicted
    ]


@pytest.mark.parametrize(
    ("thresholds", "name"), [(["2"], "main"), (["0"], "sub-model 1"), (["2", "0", "2"], "sub-model 2")]
)
def test_thresholds(classify: Callable[..., int], here: Path, thresholds: list[str], name: str) -> None:
    assert classify("--threshold", *thresholds) == 0
    assert {row["exit"] for row in rows_of(here / "results.csv")} == {name}


def test_a_damaged_image_stops_it_and_nothing_is_left(
    classify: Callable[..., int], digit_folder: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = digit_folder / "9" / "damaged.png"
    damaged.write_bytes(b"\x89PNG no more")
    before = sorted(here.iterdir())
    assert classify("--batch-size", "1") == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert f"error: {damaged} cannot be read as an image" in said.err
    assert "\n  fix: " in said.err
    assert sorted(here.iterdir()) == before


def test_a_damaged_image_is_named_and_passed_over(
    classify: Callable[..., int], digit_folder: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classify()
    whole = rows_of(here / "results.csv")
    (digit_folder / "0" / "a damaged, one.png").write_bytes(b"\x89PNG no more")
    (digit_folder / "zz").mkdir()
    (digit_folder / "zz" / "empty.png").touch()
    assert classify("--on-bad-image", "skip", "--batch-size", "1") == 0
    assert "22 images, 2 of them could not be read" in capsys.readouterr().out
    rows = rows_of(here / "results.csv")
    bad = [row for row in rows if row["error"]]
    assert [row["file"] for row in bad] == ["0/a damaged, one.png", "zz/empty.png"]
    assert all("cannot be read as an image" in row["error"] and not row["class"] for row in bad)
    assert [row for row in rows if not row["error"]] == whole


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folder": Path("nowhere")}, "there is no folder nowhere"),
        ({"folder": Path("runs")}, "runs holds no images"),
        ({"output": Path("nowhere/results.csv")}, "nowhere/results.csv cannot be written"),
        ({"output": Path("digit-images/0/0.png/results.csv")}, "results.csv cannot be written"),
    ],
)
def test_what_can_be_mended_is_said(
    classify: Callable[..., int], options: dict[str, Path], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert classify(**options) == 1
    assert f"error: {message}" in capsys.readouterr().err.replace("digit-images/0/0.png/", "")


def test_wrong_thresholds_and_batches(
    classify: Callable[..., int], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert classify("--threshold", "0.5", "0.5") == 1
    assert "takes 3 thresholds, not 2" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        classify("--batch-size", "0")
    assert not (here / "results.csv").exists()


def test_the_python_of_the_page_on_onnx_runs_without_torch(run: Path, digit_folder: Path, here: Path) -> None:
    page = (EXAMPLE.parents[2] / "docs/onnx.md").read_text(encoding="utf-8")
    section = page.partition("## In Python")[2].partition("\n## ")[0]
    snippets = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    (here / "demo/images").mkdir(parents=True)
    shutil.copytree(here / "runs", here / "demo/runs", symlinks=True)
    (here / "demo/images/7_021.png").write_bytes(min(digit_folder.glob("*/*.png")).read_bytes())
    said = []
    for snippet in snippets:
        code = f"import sys; sys.modules['torch'] = None\n{snippet}"
        done = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        said.append(done.stdout)
    (label, *_), _, (index, *_) = ProgressiveSession(run / "export/progressive.onnx")(
        read_image(here / "demo/images/7_021.png", 8, 1)
    )
    assert re.fullmatch(r"7 images, at exits \{\d(, \d)*\} and \{3\}\n", said[0])
    assert said[1:] == [f"{label} at exit {index}\n"]
