"""On a device the runtime is installed without lcprune, and without what lcprune needs."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

RUNTIME = Path(__file__).parents[2] / "runtime"
ABSENT = ("torch", "torchvision", "onnx", "scipy", "lcprune")  # pydantic comes with a dependency


@pytest.mark.slow
def test_it_runs_where_nothing_else_is(run: Path, digit_folder: Path, tmp_path: Path) -> None:
    model = run / "export/progressive.onnx"
    environment = tmp_path / "device"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    python = environment / "bin" / "python"
    source = shutil.copytree(RUNTIME, tmp_path / "runtime", ignore=shutil.ignore_patterns("*.egg-info", "build"))
    install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", str(source)]  # builds in the source
    done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no packages here: {done.stderr.strip().splitlines()[-1]}")
    code = f"import importlib.util as i; print(*[n for n in {ABSENT!r} if i.find_spec(n)])"
    found = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []

    command = [str(environment / "bin" / "lcprune-runtime")]
    predicted = subprocess.run([*command, "predict", model, digit_folder, "--json"], capture_output=True, text=True)
    rows = json.loads(predicted.stdout)["images"]
    assert len(rows) == 20
    here = subprocess.run(
        [sys.executable, "-m", "lcprune", "predict", str(model), str(digit_folder), "--json"],
        capture_output=True,
        text=True,
    )
    assert rows == json.loads(here.stdout)["images"]
