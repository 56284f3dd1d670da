"""`lcprune export`: what it refuses, and what it says of what it wrote."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcprune import runs
from lcprune.pipeline import export as pipeline

Cli = Callable[..., Any]
Refused = Callable[..., dict[str, str]]

KEYS = {
    "path",
    "kind",
    "format",
    "precision",
    "size_bytes",
    "parity",
    "thresholds",
    "test_accuracy_pct",
    "mean_macs",
    "macs_ratio",
    "exit_fractions",
}


def test_before_anything_was_selected_it_says_what_to_do(run: Path, refused: Refused) -> None:
    error = refused("export")
    assert error["problem"] == f"nothing was selected in {run} yet"
    assert error["fix"] == "choose first with `lcprune select --max-drop 2.0`, or name one: --exit 1 .. --exit main"


@pytest.mark.parametrize(
    ("options", "problem", "fix"),
    [
        (["--exit", "7"], "there is no sub-model 7 in this run", "name one of 1, 2, 3, main"),
        (["--exit", "²"], "there is no sub-model ² in this run", "name one of 1, 2, 3, main"),
        (
            ["--progressive", "--exit", "1"],
            "sub-model 1 is the first exit, so there is nothing to stop at before it",
            "leave --progressive out, or name a later exit",
        ),
        (
            ["--progressive", "--exit", "2", "--exits", "2", "--threshold", "0.5"],
            "--exits: there is no early exit 2 before sub-model 2",
            "name some of 1",
        ),
        (
            ["--progressive", "--threshold", "nan"],
            "--threshold nan is no threshold",
            "write auto, 0.9, or one for each exit",
        ),
        (
            ["--progressive", "--threshold", "0.9,"],
            "--threshold 0.9, is no threshold",
            "write auto, 0.9, or one for each exit",
        ),
        (
            ["--progressive", "--threshold", "0.9,0.8,0.7", "--exits", "1,3"],
            "--threshold gives 3 thresholds for 2 early exits",
            "give one for all, or one for each",
        ),
        (
            ["--progressive", "--threshold", "0.9", "--max-drop", "1"],
            "--max-drop is about calibrated thresholds",
            "leave it out, or write --threshold auto",
        ),
        (
            ["--progressive", "--threshold", "0.9", "--no-temperature"],
            "--no-temperature is about calibrated thresholds",
            "leave it out, or write --threshold auto",
        ),
        (
            ["--progressive", "--threshold", "0.9", "--criterion", "auto"],
            "--criterion auto is about calibrated thresholds",
            "name a criterion, or write --threshold auto",
        ),
        (
            ["--progressive", "--minimize", "latency", "--max-macs", "9"],
            "--minimize is about the points that --max-drop allows",
            "leave it out",
        ),
        (
            ["--progressive", "--max-drop", "1", "--max-macs", "9"],
            "--max-drop and --max-macs are budgets of different things",
            "give one of them",
        ),
        (
            ["--progressive", "--max-latency-ms", "1", "--confidence", "0.9"],
            "--confidence is about the points that --max-drop allows",
            "leave it out",
        ),
        *(
            (
                ["--exit", "1", option, value],
                f"{option} is about progressive graphs",
                "add --progressive, or leave it out",
            )
            for option, value in [("--exits", "1"), ("--criterion", "margin"), ("--threshold-input", "none")]
        ),
    ],
)
def test_a_request_that_cannot_be_met(run: Path, refused: Refused, options: list[str], problem: str, fix: str) -> None:
    error = refused("export", *options)
    assert error == {"kind": "export", "problem": problem, "fix": fix}
    assert [path.name for path in (run / "export").glob("*.onnx")] == ["progressive.onnx"]


def test_wrong_usage_has_exit_code_2(here: Path, cli: Cli) -> None:
    for options in (["--format", "pickle"], ["--precision", "fp2"], ["--threshold-input", "maybe"]):
        result = cli("export", *options)
        assert (result.exit_code, result.stdout) == (2, "")
        assert options[0] in result.stderr


@pytest.mark.parametrize("kind", [["--exit", "1"], ["--progressive", "--threshold", "0.9"]])
def test_a_place_that_cannot_be_written(run: Path, refused: Refused, here: Path, kind: list[str]) -> None:
    (here / "file").write_text("")
    error = refused("export", *kind, "--output", "file/a/model.onnx")
    assert error == {
        "kind": "export",
        "problem": "file/a cannot be made: Not a directory",
        "fix": "choose another --output",
    }
    error = refused("export", *kind, "--output", "runs")
    assert error["problem"] == "runs is a folder"
    assert error["fix"].startswith("name the file: --output runs/")


def test_the_selected_sub_model_has_the_accuracy_of_the_selection(run: Path, cli: Cli) -> None:
    selected = json.loads(cli("select", "--max-drop", "30", "--json").stdout)["selected"]
    result = cli("export", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    content = json.loads(result.stdout)
    assert set(content) >= KEYS
    assert content["path"] == str(run / f"export/sub-model-{selected['exit_index'] + 1}.onnx")
    assert (content["kind"], content["precision"], content["thresholds"]) == ("submodel", "fp32", [])
    assert content["name"] == selected["name"]
    assert content["test_accuracy_pct"] == selected["test_accuracy_pct"]
    assert (content["mean_macs"], content["macs_ratio"]) == (selected["macs"], selected["macs_ratio"])
    assert content["size_bytes"] == Path(content["path"]).stat().st_size
    assert content["size_bytes"] == pytest.approx(selected["size_bytes"], abs=100)  # metadata has accuracies by now
    assert set(content["parity"]) >= {"max_abs_diff", "exits_agree", "samples"}
    assert (content["parity"]["samples"], content["parity"]["exits_agree"]) == (256, True)
    assert "export/" + Path(content["path"]).name in runs.recorded_files(run)


@pytest.mark.parametrize(("name", "file"), [("main", "main.onnx"), ("4", "main.onnx"), ("1", "sub-model-1.onnx")])
def test_a_named_exit_needs_no_selection(run: Path, cli: Cli, name: str, file: str) -> None:
    result = cli("export", "--exit", name)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"wrote {run}/export/{file} (submodel, fp32, ")
    assert lines[1].startswith("agrees with torch on 256 images: logits within ")
    assert lines[2].startswith("test accuracy ")
    assert cli("verify", run / "export" / file).exit_code == 0


def test_a_progressive_graph_as_json(run: Path, cli: Cli, here: Path) -> None:
    result = cli("export", "--progressive", "--threshold", "0.9,0.8,0.7", "--output", "out/model.onnx", "--json")
    content = json.loads(result.stdout)
    assert set(content) >= KEYS
    assert (content["path"], content["kind"]) == ("out/model.onnx", "progressive")
    assert content["thresholds"] == [0.9, 0.8, 0.7]
    assert content["exits"] == ["sub-model 1", "sub-model 2", "sub-model 3", "main"]
    assert len(content["exit_fractions"]) == 4
    assert sum(content["exit_fractions"]) == pytest.approx(1)
    assert content["size_bytes"] == (here / "out/model.onnx").stat().st_size
    assert runs.changed_files(run) == []
    assert not [name for name in runs.recorded_files(run) if "model.onnx" in name]  # it lies elsewhere


def test_some_exits_are_kept_by_hand(run: Path, cli: Cli) -> None:
    content = json.loads(cli("export", "--progressive", "--exits", "1,3", "--threshold", "0.5,0.4", "--json").stdout)
    assert content["exits"] == ["sub-model 1", "sub-model 3", "main"]
    assert content["thresholds"] == [0.5, 0.4]
    costs = json.loads((run / runs.PROFILE).read_text())
    groups, critics = costs["group_macs"], costs["critic_macs"]
    exit_macs = [
        groups[0] + critics[0],
        sum(groups[:3]) + critics[0] + critics[2],
        sum(groups) + critics[0] + critics[2],
    ]
    mean_macs = sum(fraction * macs for fraction, macs in zip(content["exit_fractions"], exit_macs, strict=True))
    assert content["mean_macs"] == pytest.approx(mean_macs)  # the critic between is not paid for
    assert content["macs_ratio"] == pytest.approx(mean_macs / sum(groups))


def test_auto_takes_the_budget_asked_for_then_the_selections_then_half_a_point(run: Path, cli: Cli) -> None:
    export = ("export", "--progressive", "--exits", "1,2,3", "--json")

    def budget(*options: str) -> float:
        result = cli(*export, *options)
        if result.exit_code == 3:  # too little for 300 images, but it says what it tried
            problem = json.loads(result.stdout)["error"]["problem"]
            return float(re.search(r"(?:within|at most) ([\d.]+) points", problem)[1])
        assert result.exit_code == 0, result.stderr
        decided = json.loads((run / runs.THRESHOLDS).read_text())
        content = json.loads(result.stdout)
        assert content["thresholds"] == decided["thresholds"]
        assert content["val_accuracy_pct"] == pytest.approx(decided["accuracy_pct"])
        assert content["main_val_accuracy_pct"] - content["val_accuracy_pct"] <= decided["max_drop_pct"] + 1e-9
        return float(decided["max_drop_pct"])

    assert budget() == 0.5
    cli("select", "--max-drop", "3", "--quiet")
    assert budget() == 3
    assert budget("--max-drop", "0") == 0
    assert budget("--max-drop", "40") == 40
    assert (run / runs.THRESHOLDS).exists()


def test_confidence_may_leave_main_alone(shaped_run: Callable[..., Path], run: Path, refused: Refused) -> None:
    shaped_run([[1] * 5 + [0] * 5, [1] * 8 + [0] * 2, [1] * 9 + [0], [1] * 10])
    error = refused("export", "--progressive", "--confidence", "0.95", "--max-drop", "1", exit_code=3)
    assert error["kind"] == "budget"
    assert error["problem"] == "on 10 images no early exit can be shown to lose at most 1 points with confidence 0.95"
    assert error["fix"].startswith(
        "decide on about 1,601 images (data.val_size), allow more with --max-drop, export main"
    )
    assert not (run / runs.THRESHOLDS).exists()


def test_confidence_bounds_the_drop_on_images_that_did_not_choose(run: Path, cli: Cli) -> None:
    result = cli("export", "--progressive", "--exits", "1,2,3", "--confidence", "0.9", "--max-drop", "30", "--quiet")
    assert (result.exit_code, result.stdout) == (0, "")
    decided = json.loads((run / runs.THRESHOLDS).read_text())
    assert decided["confidence"] == 0.9
    assert decided["drop_pct"] < decided["drop_upper_pct"] <= 30


def test_without_validation_images_auto_must_be_told_to_use_the_test_split(
    shaped_run: Callable[..., Path], cli: Cli, refused: Refused
) -> None:
    run = shaped_run(val=None, test=[[1] * 300] * 4)
    recipe = run / runs.RECIPE
    recipe.write_text(recipe.read_text().replace("val_size: 300", "val_size: 0"))
    export = ("export", "--progressive", "--exits", "1,2,3")
    assert refused(*export)["fix"].endswith("let the test images decide with --use-test-split")
    result = cli(*export, "--use-test-split", "--json")
    assert result.exit_code == 0, result.stderr
    content = json.loads(result.stdout)
    assert (content["val_accuracy_pct"], content["test_accuracy_pct"]) == (None, 100)
    assert content["parity"]["samples"] == 256  # test images, as there are no others that it was not trained on
    assert json.loads((run / runs.THRESHOLDS).read_text())["decided_on"] == "test"


def test_it_says_so_where_stopping_early_is_no_gain(run: Path, cli: Cli) -> None:
    nobody_leaves = cli("export", "--progressive", "--threshold", "1.1")
    assert nobody_leaves.exit_code == 0
    costs = json.loads((run / runs.PROFILE).read_text())
    share = 100 * costs["cascade_macs"] / sum(costs["group_macs"])
    assert f"warning: on validation this graph costs {share:.0f} % of main's MACs" in nobody_leaves.stderr
    assert "100.0 %" in nobody_leaves.stdout.splitlines()[-1]
    assert cli("export", "--progressive", "--threshold", "1.1", "--quiet").stderr == ""


@pytest.mark.parametrize(("thresholds", "k"), [("0,1,1", 1), ("1.1,0,0.5", 2), ("1.1,1.1,0", 3)])
def test_it_says_so_where_all_images_leave_at_one_early_exit(run: Path, cli: Cli, thresholds: str, k: int) -> None:
    result = cli("export", "--progressive", "--threshold", thresholds)
    assert f"all images leave at sub-model {k}: export it alone with --exit {k}\n" in result.stderr
    assert result.stderr.count("all images leave") == 1


def test_it_says_nothing_where_images_leave_at_several_exits(run: Path, cli: Cli) -> None:
    with np.load(run / runs.PREDICTIONS) as arrays:
        logits = arrays["val_logits"]
    exponents = np.exp(logits - logits.max(2, keepdims=True))
    middle = float(np.median(1 / exponents.sum(2)[0]))  # half of the images leave at once, the rest at the second exit
    result = cli("export", "--progressive", "--threshold", f"{middle},0,0")
    assert (result.exit_code, result.stderr) == (0, "")


def test_a_run_without_critics(here: Path, cli: Cli, refused: Refused, train_tiny: Callable[..., Any]) -> None:
    train_tiny(here / "alone", "train.method=backprop", "train.iterations=1")
    error = refused("export", "alone", "--progressive")
    assert error["problem"] == "this run has no critics, so there is nothing to stop at"
    assert error["fix"] == "export it with --exit main"
    assert json.loads(cli("export", "alone", "--exit", "main", "--json").stdout)["exit_fractions"] == [1.0]
    assert json.loads(cli("select", "alone", "--json").stdout)["selected"]["name"] == "main"
    evaluated = json.loads(cli("evaluate", "alone", "--json").stdout)
    assert (len(evaluated["exits"]), evaluated["ensembles"], evaluated["progressive"]) == (1, {}, [])


def test_int8_and_fp32_stand_side_by_side(run: Path, cli: Cli) -> None:
    result = cli("export", "--progressive", "--exits", "1,3", "--threshold", "0.5,0.4", "--precision", "int8")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"wrote {run}/export/progressive-int8.onnx (progressive, int8, ")
    assert lines[1] == "agrees with its own stages on 256 images: logits within 0.0e+00, the same exits"
    assert lines[3] == f"beside it: {run}/export/progressive-int8.md"
    assert " convolutions in int8, all there are; ranges: " in lines[4]
    assert lines[4].endswith(" on 256 training images; weights of 7 bits: the same on every processor")
    assert lines[5].startswith("same class as fp32 on ")
    assert lines[6].split("  ")[0] == "precision"
    mains = [line.split() for line in lines[7:9]]
    assert [main[:2] for main in mains] == [["fp32", "main"], ["int8", "main"]]
    assert all(0 < float(main[4]) <= 100 for main in mains)
    assert all(float(main[5]) > 0 for main in mains)  # ms
    rows = {line.split()[0]: line.split() for line in lines[9:11]}
    assert list(rows) == ["fp32", "int8"]
    assert (rows["fp32"][3:5], len(rows["fp32"])) == (
        ["100.0", "%"],
        len(rows["int8"]),
    )  # size, test, MACs, three exits
    assert lines[11] == "ms: measured on this machine, batch 1, CPU time of one thread"
    assert cli("verify", run / "export/progressive-int8.onnx").exit_code == 0
    assert runs.changed_files(run) == []


@pytest.mark.parametrize(("int8_ms", "pays"), [(1.2, False), (0.5, True)])
def test_an_int8_file_that_is_no_faster_says_so(
    run: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, int8_ms: float, pays: bool
) -> None:
    monkeypatch.setattr(pipeline, "medians_ms", lambda *_: [[1.0], [int8_ms]])
    result = cli("export", "--exit", "main", "--precision", "int8", "--json")
    said = json.loads(result.stdout)
    assert (said["fp32"]["latency_ms"], said["latency_ms"]) == (1.0, int8_ms)
    notice = "warning: int8 does not pay here: main takes 1.20 ms, 1.00 in float32"
    assert (notice in cli("export", "--exit", "main", "--precision", "int8").stderr) is not pays
