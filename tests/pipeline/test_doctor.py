"""What `lcprune doctor` says of an installation, and what the commands say where torchvision does not import."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from lcprune.pipeline import doctor

MISMATCH = "operator torchvision::nms does not exist"
MEND = "install torch and torchvision together, from the same index, into a fresh virtual environment"


@pytest.fixture
def broken_torchvision(tmp_path: Path) -> dict[str, str]:
    """An environment in which torchvision is of another build than torch."""
    package = tmp_path / "other build" / "torchvision"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"raise RuntimeError({MISMATCH!r})\n")
    return {**os.environ, "PYTHONPATH": str(package.parent), "OMP_NUM_THREADS": "1"}


def lcprune(environment: dict[str, str], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from lcprune.cli import main; main()", *arguments]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)


@pytest.mark.slow
def test_an_installation_that_is_right(tmp_path: Path) -> None:
    done = lcprune(dict(os.environ), tmp_path, "doctor", "--json")
    assert done.returncode == 0, done.stdout
    content = json.loads(done.stdout)
    assert content["problems"] == []
    assert {name: content["found"][name] for name in doctor.PACKAGES} == {
        name: metadata.version(name) for name in doctor.PACKAGES
    }
    assert int(content["found"]["torch threads"]) >= 1


def test_torchvision_of_another_build_is_named_with_its_mend(
    tmp_path: Path, broken_torchvision: dict[str, str]
) -> None:
    done = lcprune(broken_torchvision, tmp_path, "doctor", "--json")
    assert done.returncode == 1
    content = json.loads(done.stdout)
    version = metadata.version("torchvision")
    assert content["found"]["torchvision"] == f"{version}, broken"
    assert content["found"]["torch"] == metadata.version("torch")
    (problem,) = content["problems"]
    assert problem.startswith(
        f"torchvision {version} cannot be imported (RuntimeError: {MISMATCH}): {MEND}: python -m venv"
    )


def test_a_person_reads_the_problem(
    monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Any], broken_torchvision: dict[str, str]
) -> None:
    monkeypatch.setattr(doctor, "PACKAGES", ("torchvision",))
    monkeypatch.setenv("PYTHONPATH", broken_torchvision["PYTHONPATH"])
    result = cli("doctor")
    assert result.exit_code == 1
    assert "problem: torchvision" in result.stdout
    assert MISMATCH in " ".join(result.stdout.split())
    assert "everything that lcprune needs is here" not in result.stdout


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Any]) -> None:
    monkeypatch.setattr(doctor, "PACKAGES", ("no-such-package",))
    result = cli("doctor", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["problems"] == ["no-such-package is not installed: pip install no-such-package"]


def test_training_on_cifar_says_how_to_mend_the_installation(
    tmp_path: Path, broken_torchvision: dict[str, str]
) -> None:
    done = lcprune(broken_torchvision, tmp_path, "train", "vgg_cifar10", "--json")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["kind"] == "setup"
    assert MISMATCH in error["problem"]
    assert "pip install torch torchvision" in error["fix"]
    assert not (tmp_path / "runs").exists()


def test_what_differs_from_the_machine_of_a_run(
    run: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_package", lambda name: (metadata.version(name), None))  # imports nothing
    path = run / "environment.json"
    before = json.loads(path.read_text())
    assert json.loads(cli("doctor", run, "--json").stdout)["differs"] == []
    assert "this is the machine of" in cli("doctor", run).stdout
    before["packages"]["torch"] = "1.0"
    before |= {"python": "3.0.0", "threads": 64, "cpu_capability": "SPARC"}
    path.write_text(json.dumps(before))
    found = json.loads(cli("doctor", run, "--json").stdout)
    assert [line.partition(" and is ")[0] for line in found["differs"]] == [
        "python was 3.0.0",
        "torch was 1.0",
        "torch threads was 64",
        "cpu capability was SPARC",
    ]
    assert "differs from the run: python was 3.0.0" in cli("doctor", run).stdout
    path.write_text('{"lcprune": "0.0.1"}')  # an older version recorded less
    (line,) = json.loads(cli("doctor", run, "--json").stdout)["differs"]
    assert line.startswith("lcprune was 0.0.1 and is ")
