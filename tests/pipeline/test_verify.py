"""`lcprune verify` finds every file of a run that is not what was written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lcprune import runs

Refused = Callable[..., dict[str, str]]

RECORDED = [
    "checkpoints/best.pt",
    "checkpoints/last.pt",
    "checkpoints/last_good.pt",
    "dataset.json",
    "export/progressive.md",
    "export/progressive.onnx",
    "predictions.npz",
    "profile.json",
    "weights.safetensors",
]


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_run_that_nobody_touched_is_right(run: Path, cli: Callable[..., Any]) -> None:
    plain = cli("verify")
    assert (plain.exit_code, plain.stdout) == (0, f"{len(RECORDED)} files have the recorded SHA-256\n")
    content = json.loads(cli("verify", run, "--json").stdout)
    assert content == {"run": str(run), "files": RECORDED}


def test_an_exported_file_is_verified_by_itself(run: Path, cli: Callable[..., Any]) -> None:
    flip_a_byte(run / runs.WEIGHTS)  # of no concern to the file that is asked about
    for name in ("export/progressive.onnx", "export/progressive.md"):
        assert json.loads(cli("verify", run / name, "--json").stdout)["files"] == [name]


@pytest.mark.parametrize("name", RECORDED)
def test_one_flipped_bit_is_found_and_the_file_named(run: Path, refused: Refused, name: str) -> None:
    flip_a_byte(run / name)
    error = refused("verify", run)
    assert error["kind"] == "run"
    assert error["problem"] == f"{run}: {name} is missing or is not what was written"


def test_all_that_is_wrong_is_named(run: Path, refused: Refused) -> None:
    (run / runs.PROFILE).unlink()
    flip_a_byte(run / runs.PREDICTIONS)
    assert f"{runs.PREDICTIONS}, {runs.PROFILE} is missing" in refused("verify", run)["problem"]


def test_what_does_not_lie_in_a_run_is_refused(run: Path, here: Path, refused: Refused) -> None:
    outside = here / "copy.onnx"
    outside.write_bytes((run / "export/progressive.onnx").read_bytes())
    problem = f"{outside} does not lie in a run folder, so nothing is recorded about it"
    assert refused("verify", outside)["problem"] == problem
    assert refused("verify", "nowhere.onnx")["problem"] == "there is no file nowhere.onnx"
    (here / "empty").mkdir()
    assert refused("verify", "empty")["problem"] == "empty is no run folder: it has no recipe.yaml"
    (here / runs.LATEST).unlink()
    assert "runs/latest is missing" in refused("verify")["problem"]


def test_what_nothing_is_recorded_about_is_refused(run: Path, refused: Refused) -> None:
    other = run / "export/other.onnx"
    other.write_bytes(b"x")
    assert refused("verify", other)["problem"] == f"nothing is recorded about {other}"
    (run / runs.MANIFEST).unlink()  # as of a run that is not finished
    assert refused("verify", run)["problem"] == f"nothing is recorded about {run}"
