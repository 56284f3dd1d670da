"""A model card has a header that hubs read, figures that are those of the export, and code that runs."""

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from ruamel.yaml import YAML

from lcprune.pipeline import export as pipeline
from lcprune.pipeline.export import ExportRequest
from lcprune.recipe import load
from lcprune.reporting.model_card import model_card
from lcprune_runtime.metadata import ExitInfo, InputInfo, ModelInfo

Asked = Callable[..., ExportRequest]

ONE_EXIT = ModelInfo(
    classes=("a|b", "<script>alert(1)</script>", "# big", "x\ny", "[l](http://e)"),
    mean=(0.5,),
    std=(0.2,),
    exits=(ExitInfo("main", 0, 10, 5, 50.0, None),),
    input=InputInfo(size=8, channels=1),
    recipe_sha256="ab" * 32,
    main_macs=20,
    exit_macs=(10,),
    temperatures=(1.0,),
)
RESULT: dict[str, Any] = {
    "path": "x.onnx",
    "format": "onnx",
    "precision": "fp32",
    "size_bytes": 10,
    "test_accuracy_pct": None,
    "exit_fractions": None,
    "thresholds": [],
    "parity": {"against": "torch", "samples": 3, "max_abs_diff": 0.0},
}


def exported(run: Path, request: ExportRequest) -> tuple[dict[str, Any], str]:
    said = pipeline.export(run, request, notice=lambda _: None)
    return said, Path(said["card"]).read_text(encoding="utf-8")


def header(card: str) -> dict[str, Any]:
    begin, text, _ = card.split("---\n", 2)
    assert begin == ""
    return dict(YAML(typ="safe").load(StringIO(text)))


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": "0.45,0.35,0.3"},
        {"threshold": "0.4", "threshold_input": "required", "batch": 1},
        {"threshold": "0.4", "precision": "int8", "segments": True},
        {"threshold": "0.4", "layout": "flat", "file_format": "ort"},
        {"progressive": False, "exit_name": "2"},
    ],
    ids=["plain", "one image", "int8", "ort", "sub-model"],
)
def test_the_code_of_a_card_runs_beside_its_file(run: Path, asked: Asked, options: dict[str, Any]) -> None:
    said, card = exported(run, asked(**options))
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        done = subprocess.run(
            [sys.executable, "-c", block], cwd=Path(said["path"]).parent, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout
    for secret in (str(run), str(run.parent), str(Path.home()), "data_root"):
        assert secret not in card
    for name in (Path(said["path"]).name, *(Path(said[key]).name for key in ("operators", "segments") if key in said)):
        assert f"`{name}`" in card


def test_the_figures_are_those_of_the_export(run: Path, asked: Asked) -> None:
    said, card = exported(run, asked(threshold="0.45,0.35,0.3"))
    fields = header(card)
    assert fields["library_name"] == "onnx"
    assert fields["metrics"] == ["accuracy"]
    assert {"onnx", "early-exit", "fp32", "image-classification"} <= set(fields["tags"])
    assert "datasets" not in fields  # digits are on no hub
    (result,) = fields["model-index"][0]["results"]
    assert result["metrics"] == [
        {"type": "accuracy", "value": pytest.approx(said["test_accuracy_pct"] / 100, abs=1e-6)}
    ]
    rows = [line.strip("| ").split(" | ") for line in card.splitlines() if line.startswith(("| sub-model", "| main"))]
    assert [row[0] for row in rows] == said["exits"]
    assert [row[1] for row in rows] == [f"{100 * fraction:.1f} %" for fraction in said["exit_fractions"]]
    assert [row[2] for row in rows] == ["0.4500", "0.3500", "0.3000", "-"]
    assert f"{said['test_accuracy_pct']:.2f} % of the test images are right" in card
    assert f"{100 * said['macs_ratio']:.1f} % of main's" in card


def test_a_file_that_ends_before_main_says_that_main_is_not_in_it() -> None:
    card = " ".join(progressive("sub-model 2").split())
    assert "The last exit is sub-model 2: main, the whole network, is not in this file" in card
    assert "(float32's main, which is not in this file: 91.00 %)" in card
    whole = " ".join(progressive("main").split())
    assert "not in this file" not in whole
    assert "(float32's main: 91.00 %)" in whole


def progressive(last: str) -> str:
    """The card of a file of two exits."""
    exits = (ExitInfo("sub-model 1", 0, 10, 5, 50.0, 60.0), ExitInfo(last, 1, 20, 9, 70.0, 80.0))
    info = replace(
        ONE_EXIT, kind="progressive", exits=exits, exit_macs=(10, 22), thresholds=(0.5,), temperatures=(1.0, 2.0)
    )
    known = {"test_accuracy_pct": 75.0, "main_test_accuracy_pct": 91.0, "mean_macs": 16, "macs_ratio": 0.8}
    result = RESULT | known | {"exit_fractions": [0.5, 0.5], "thresholds": [0.5]}
    return model_card(Path("folder/x.onnx"), info, result, load("digits", []))


@pytest.mark.parametrize(
    ("keys", "title", "origin", "network"),
    [
        (
            ["train.method=backprop", "model.submodel=2"],
            "digits: sub-model 2, trained alone",
            "It is the network of sub-model 2, the layers up to that exit and those of its head, trained alone",
            "as far as sub-model 2 goes; its head: pooled",
        ),
        (["train.method=backprop"], "digits: main", "It is a network that was trained with this one exit.", "vgg"),
        ([], "digits: main", "It is main of a network that was trained with all of its exits.", "heads of the early"),
    ],
)
def test_what_a_file_of_one_exit_is(keys: list[str], title: str, origin: str, network: str) -> None:
    card = one_exit("main", [*keys, "critics.head=pooled"])
    assert f"# {title}\n" in card
    assert ("of a network that was trained with all of its exits" in card) == (not keys)
    assert origin in " ".join(card.split())
    (line,) = (line for line in card.splitlines() if line.startswith("- Network:"))
    assert network in line
    assert ("early exits" in line) == (not keys)


@pytest.mark.parametrize("source", ["digits", "cifar10", "cifar100", "imagefolder", "manifest", "imagenet"])
def test_every_source_of_images_has_a_card(source: str) -> None:
    keys = ["data.root=secret"] if source not in ("digits", "cifar10", "cifar100") else []
    keys += ["data.image_size=8"] if keys else []
    keys += ["data.manifest=secret.csv"] if source == "manifest" else []
    card = one_exit("main", [f"data.source={source}", *keys])
    assert "- Data: " in card
    assert "secret" not in card


def test_how_images_are_cut_is_said() -> None:
    cut = InputInfo(size=8, channels=1, resize="shorter_side", crop="center", shorter_side=10)
    card = one_exit("main", [], cut)
    expected = "until their shorter side has 10 pixels (bilinear), and the middle 8 x 8 is cut out."
    assert expected in " ".join(card.split())
    assert "resized to 8 x 8 (stretch, bilinear)." in one_exit("main", [])


def test_names_of_classes_cannot_break_the_page() -> None:
    card = one_exit("sub-model 1", [])
    assert "model-index" not in header(card)
    assert "folder/" not in card
    html = MarkdownIt("commonmark").enable("table").render(card.split("---\n", 2)[2])
    assert "<script>" not in html
    assert "href" not in html
    assert "a|b, &lt;script&gt;" in html
    assert html.count("<h1>") == 1


def one_exit(name: str, keys: list[str], read_as: InputInfo | None = None) -> str:
    """The card of a file of one exit, whose classes have names that are no plain text."""
    info = replace(ONE_EXIT, exits=(ExitInfo(name, 0, 10, 5, 50.0, None),), input=read_as or ONE_EXIT.input)
    return model_card(Path("folder/x.onnx"), info, RESULT, load("digits", keys))
