"""The host loop of examples/other_runtimes takes the exits that the ONNX file takes, in the real runtimes."""

import json
import os
import subprocess
import tomllib
from pathlib import Path

import pytest

from lcprune.specs import FORMATS
from tests.environments import with_packages

REPOSITORY = Path(__file__).resolve().parents[2]
EXTRAS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
TRAINING = ["train", "digits", "--out", "run", "--set", "train.iterations=60"]
ONNX = ["export", "run", "--progressive", "--threshold", "0.7"]
pytestmark = [pytest.mark.slow, pytest.mark.installs]


@pytest.mark.parametrize("name", [name for name, spec in FORMATS.items() if spec.package])
def test_the_same_exits_as_onnx(name: str, tmp_path: Path) -> None:
    python = with_packages(tmp_path / "env", EXTRAS[name])
    paths = os.pathsep.join(map(str, (REPOSITORY, REPOSITORY / "runtime")))
    variables = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}

    def run(*command: str | Path) -> str:
        done = subprocess.run([python, *command], cwd=tmp_path, env=variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    for command in (TRAINING, ONNX):
        run("-m", "lcprune", *command)
    said = json.loads(run("-m", "lcprune", *ONNX, "--format", name, "--json"))
    if not FORMATS[name].runs_here:
        assert said["parity"] is None
        assert len(list(Path(tmp_path, said["path"]).iterdir())) == len(said["exits"]) + 1
        return
    assert said["parity"]["exits_agree"]
    run(REPOSITORY / "examples" / "digit_images.py", "digits", "--count", "40")
    images = sorted(tmp_path.glob("digits/*.png"))
    host = run(REPOSITORY / "examples" / "other_runtimes" / "host.py", said["path"], *images).splitlines()
    predicted = json.loads(run("-m", "lcprune", "predict", "run/export/progressive.onnx", "digits", "--json"))["images"]
    expected = [f"{Path(row['image']).name}\t{row['class']}\t{row['exit']}" for row in predicted]
    assert host == expected
    assert len({row["exit"] for row in predicted}) > 1
