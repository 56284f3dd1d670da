"""`lcprune select` and `lcprune profile`: the budget, the table, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lcprune import runs

Cli = Callable[..., Any]
Refused = Callable[..., dict[str, str]]
Shaped = Callable[..., Path]

CANDIDATE = {
    "name",
    "exit_index",
    "macs",
    "params",
    "size_bytes",
    "latency_ms",
    "image_size",
    "val_accuracy_pct",
    "test_accuracy_pct",
    "drop_pct",
    "expected_drop_pct",
    "expected_drop_se_pct",
    "drop_upper_pct",
    "macs_ratio",
}
# Right on so many of 10 images: 5, 8, 9 and 10. The drops are 50, 20, 10 and 0 points.
LADDER = [[1] * right + [0] * (10 - right) for right in (5, 8, 9, 10)]


@pytest.mark.parametrize(
    "option",
    [
        *(f"--max-drop={value}" for value in ("-1", "100.5", "nan", "much")),
        *("--max-macs=0", "--max-params=-1", "--max-latency-ms=inf", "--confidence=0.4", "--minimize=beauty"),
    ],
)
def test_limits_out_of_their_range_are_wrong_usage(here: Path, cli: Cli, option: str) -> None:
    result = cli("select", option)
    assert (result.exit_code, result.stdout) == (2, "")
    assert option.partition("=")[0] in result.stderr


def test_the_result_as_json_is_what_the_file_holds(run: Path, cli: Cli) -> None:
    result = cli("select", "--max-drop", "50", "--json")
    content = json.loads(result.stdout)
    assert content == json.loads((run / runs.SELECTION).read_text())
    assert set(content) == {"reference", "budget", "decided_on", "deciding_images", "selected", "candidates"}
    assert [candidate["name"] for candidate in content["candidates"]] == [
        "sub-model 1",
        "sub-model 2",
        "sub-model 3",
        "main",
    ]
    assert all(set(candidate) == CANDIDATE for candidate in content["candidates"])
    assert content["reference"] == content["candidates"][-1]
    assert content["selected"] in content["candidates"]
    assert (content["budget"]["max_drop_pct"], content["budget"]["minimize"]) == (50, "macs")
    assert content["decided_on"] == "val"
    assert runs.changed_files(run) == []
    assert runs.SELECTION in runs.recorded_files(run)


def test_the_validation_split_decides_and_the_test_split_only_if_asked(shaped_run: Shaped, cli: Cli) -> None:
    shaped_run(val=LADDER, test=[[1] * 10] * 4)
    assert json.loads(cli("select", "--max-drop", "0", "--json").stdout)["selected"]["name"] == "main"
    content = json.loads(cli("select", "--max-drop", "0", "--use-test-split", "--json").stdout)
    assert (content["selected"]["name"], content["decided_on"]) == ("sub-model 1", "test")
    assert "the test split decided" in cli("select", "--use-test-split").stdout


def test_without_validation_images_the_test_split_must_be_asked_for(
    shaped_run: Shaped, cli: Cli, refused: Refused
) -> None:
    run = shaped_run(val=None, test=LADDER)
    error = refused("select")
    assert error["problem"].startswith("this run held out no validation images (data.val_size: 0)")
    assert error["fix"].endswith("let the test images decide with --use-test-split")
    assert not (run / runs.SELECTION).exists()
    content = json.loads(cli("select", "--max-drop", "20", "--use-test-split", "--json").stdout)
    assert content["selected"]["name"] == "sub-model 2"
    assert content["selected"]["val_accuracy_pct"] is None
    assert "sub-model 2" in cli("select", "--max-drop", "20", "--use-test-split").stdout  # no crash on None


def test_a_run_without_any_images_to_decide_on(shaped_run: Shaped, refused: Refused) -> None:
    shaped_run(val=None, test=None)
    error = refused("select", "--use-test-split")
    assert error["problem"] == "this run has no test images"
    assert error["fix"] == "train with data.val_size above 0, and leave --use-test-split out"


def test_when_nothing_fits_the_nearest_is_named_and_the_selection_stays(
    shaped_run: Shaped, cli: Cli, refused: Refused
) -> None:
    run = shaped_run(LADDER)
    cli("select", "--max-drop", "20", "--quiet")
    before = (run / runs.SELECTION).read_bytes(), (run / runs.MANIFEST).read_bytes()
    error = refused("select", "--max-drop", "5", "--max-macs", "20000", exit_code=3)
    assert error["kind"] == "budget"
    macs = json.loads(before[0])["candidates"][0]["macs"]
    assert error["problem"].startswith(
        f"nothing is within the budget. The nearest is sub-model 1 (drop 50.00 points, {macs:,} MACs, "
    )
    assert error["problem"].endswith("drop 50.00 points is over 5.00")
    assert error["fix"] == "--max-drop 50.00 admits sub-model 1"
    assert ((run / runs.SELECTION).read_bytes(), (run / runs.MANIFEST).read_bytes()) == before


def test_only_some_exits(shaped_run: Shaped, cli: Cli, refused: Refused) -> None:
    shaped_run([[1] * 10] * 4)
    content = json.loads(cli("select", "--exits", "2, 3", "--json").stdout)
    assert content["selected"]["name"] == "sub-model 2"
    assert content["budget"]["exits"] == [2, 3]
    assert "not among the exits to consider" in cli("select", "--exits", "2,3").stdout
    error = refused("select", "--exits", "9")
    assert (error["problem"], error["fix"]) == ("there is no sub-model 9", "name some of: 1, 2, 3")
    for wrong in ("0", "a", "1,,2", "²", "-1"):
        error = refused("select", f"--exits={wrong}")
        assert error["problem"] == f"--exits {wrong} is not a list of exits"
        assert error["fix"] == "write numbers, such as --exits 1,3, or of several sizes 1@64,2@96"


@pytest.mark.parametrize("minimize", ["macs", "params", "latency", "size"])
def test_what_is_least_of_all(shaped_run: Shaped, cli: Cli, minimize: str) -> None:
    shaped_run([[1] * 10] * 4)
    content = json.loads(cli("select", "--minimize", minimize, "--json").stdout)
    key = {"latency": "latency_ms", "size": "size_bytes"}.get(minimize, minimize)
    assert content["selected"][key] == min(candidate[key] for candidate in content["candidates"])


def test_confidence_makes_it_harder(shaped_run: Shaped, cli: Cli) -> None:
    shaped_run(LADDER)
    loose = json.loads(cli("select", "--max-drop", "20", "--json").stdout)
    bound = json.loads(cli("select", "--max-drop", "20", "--confidence", "0.95", "--json").stdout)
    assert loose["selected"]["name"] == "sub-model 2"
    assert bound["selected"]["name"] == "main"  # 10 images say little
    assert all(c["drop_upper_pct"] > c["drop_pct"] for c in bound["candidates"][:-1])
    assert bound["candidates"][-1]["drop_upper_pct"] == 0
    assert loose["candidates"][0]["drop_upper_pct"] is None
    assert "(upper end, 95%) is over 20.00" in cli("select", "--max-drop", "20", "--confidence", "0.95").stdout


def test_the_table_says_why_the_smaller_ones_were_refused(shaped_run: Shaped, cli: Cli) -> None:
    run = shaped_run(LADDER)
    lines = cli("select", "--max-drop", "19").stdout.splitlines()
    assert lines[1].strip().endswith("drop 50.00 points is over 19.00")
    assert lines[2].strip().endswith("drop 20.00 points is over 19.00")
    assert lines[3].startswith(">  sub-model 3")
    assert lines[3].strip().endswith("selected")
    assert lines[4].strip().endswith("within the budget, but not the one with the least macs")
    assert lines[5] == f"selected: sub-model 3 ({run}/selection.json)"
    assert lines[6] == "loses 10.00 points against float32's main, give or take 9.49, on new images"
    assert lines[7] == "about 18 deciding images would bring the uncertainty to half of the budget"
    assert lines[8] == "next: lcprune export --format onnx, or with --progressive one graph with early exits"
    assert "only main is within the budget" in cli("select", "--max-drop", "0").stdout


def test_quiet_prints_nothing(run: Path, cli: Cli) -> None:
    for command in ("select", "evaluate"):
        result = cli(command, "--quiet")
        assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


def test_a_profile_that_was_changed_is_refused_and_can_be_made_again(run: Path, cli: Cli, refused: Refused) -> None:
    profile = run / runs.PROFILE
    profile.write_text(profile.read_text().replace("1", "2", 1))
    error = refused("select", "runs/digits-1")
    assert error["problem"] == "runs/digits-1/profile.json is not what was written: its SHA-256 has changed"
    assert error["fix"] == "restore it, or run: lcprune profile runs/digits-1"
    result = cli("profile", "runs/digits-1", "--json")
    assert result.exit_code == 0, result.stderr
    content = json.loads(result.stdout)
    assert content == json.loads(profile.read_text())
    assert set(content) == {"exits", "cascade", "group_macs", "critic_macs", "cascade_macs", "starts"}
    assert cli("select", "--quiet").exit_code == 0
