"""On a device the runtime is installed without lcprune, and without what lcprune needs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcprune_runtime import ProgressiveSession
from lcprune_runtime.images import read_prepared

RUNTIME = Path(__file__).parents[2] / "runtime"
ABSENT = ("torch", "torchvision", "onnx", "scipy", "pydantic", "typer", "lcprune")
MOST_BYTES = 250e6
"""Of the whole installation; it had 178 MB with NumPy 2.4 and onnxruntime 1.32."""
CLASSIFY = """
import importlib.util, json, sys
import lcprune_runtime
from lcprune_runtime.images import list_images, read_prepared
from pathlib import Path
session = lcprune_runtime.ProgressiveSession(sys.argv[1])
images = [read_prepared(path, session.info.input.preparation) for path in list_images(Path(sys.argv[2]))]
found = [name for name in sys.argv[3:] if importlib.util.find_spec(name)]
print(json.dumps([found, session(images).labels.tolist()]))
"""


@pytest.mark.slow
def test_it_runs_where_nothing_else_is(run: Path, digit_folder: Path, tmp_path: Path) -> None:
    model, environment = run / "export/progressive.onnx", tmp_path / "device"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    source = shutil.copytree(RUNTIME, tmp_path / "runtime", ignore=shutil.ignore_patterns("*.egg-info", "build"))
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def called(program: str, *arguments: Any) -> subprocess.CompletedProcess[str]:
        command = [environment / "bin" / program, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=clean)

    def install(what: str) -> None:  # pip builds in the source, hence the copy
        done = called("python", "-m", "pip", "install", "-q", "--disable-pip-version-check", what)
        if done.returncode:
            pytest.skip(f"no packages here: {done.stderr.strip().splitlines()[-1]}")

    install(str(source))
    packages = environment / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    files = [path for path in packages.rglob("*") if path.is_file()]
    of_pip = ("pip", "setuptools", "pkg_resources")
    size = sum(path.stat().st_size for path in files if not path.relative_to(packages).parts[0].startswith(of_pip))
    assert size < MOST_BYTES
    done = called("python", "-c", CLASSIFY, model, digit_folder, *ABSENT)
    found, labels = json.loads(done.stdout)
    assert found == []
    session = ProgressiveSession(model)
    paths = sorted(digit_folder.rglob("*.png"))
    pixels = np.stack([read_prepared(path, session.info.input.preparation) for path in paths])
    assert labels == session(pixels).labels.tolist()
    refused = called("lcprune-runtime", "predict", model, digit_folder)
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: the commands need the package typer\n  fix: pip install ")

    install(f"{source}[commands]")
    predicted = called("lcprune-runtime", "predict", model, digit_folder, "--json")
    rows = json.loads(predicted.stdout)["images"]
    assert [row["class"] for row in rows] == [session.info.classes[label] for label in labels]
    absent = tmp_path / "absent.png"
    wrong = called("lcprune-runtime", "predict", model, absent)
    assert (wrong.returncode, wrong.stderr.splitlines()[0]) == (1, f"error: there is no image {absent}")
