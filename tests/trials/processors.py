"""Exported files on emulated processors, compared with this machine: exits, labels and logits of the same images.

qemu's user mode emulates x86-64 around this machine's own Python, and ARM64 around a Python of Debian's packages with
wheels of onnxruntime, NumPy and Pillow. Both run `lcprune_runtime` from this checkout, and this file with it:

    processors.py RESULTS.npz IMAGES.npy FILE...
"""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lcprune_runtime.segment_session import open_model
from lcprune_runtime.session import Prediction

RUNTIME = Path(__file__).resolve().parents[2] / "runtime"
TIE = 1e-5
"""A confidence this near to a threshold may fall on either side."""
PACKAGES = ("onnxruntime", "numpy", "pillow")
DEBIAN = ("python3-minimal", "libpython3-stdlib", "libstdc++6", "libgomp1")
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")


class UnavailableError(Exception):
    """What an emulated processor needs is not here, and cannot be downloaded."""


@dataclass(frozen=True)
class Processor:
    """A processor that qemu emulates."""

    name: str
    """For qemu's ``-cpu``."""
    arm_part: str = ""
    """Its number in ``/proc/cpuinfo``; none for x86-64."""
    arm_features: str = ""


PROCESSORS = (
    Processor("Haswell"),  # AVX2 without VNNI
    Processor("cortex-a53", "0xd03", "fp asimd aes pmull sha1 sha2 crc32 cpuid"),  # without dot products
    Processor(
        "cortex-a76",
        "0xd0b",
        "fp asimd aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp ssbs",
    ),
)


@dataclass(frozen=True)
class Difference:
    """How a file's results on a processor differ from those of this machine."""

    images: int
    exits: int
    """Images that leave at another exit, those near a threshold not counted."""
    labels: int
    """Images of another class, those near a threshold not counted."""
    near_threshold: int
    """Images that leave at another exit because a confidence is within `TIE` of its threshold."""
    logits: float
    """Largest difference of a logit of images that leave at the same exit, as a part of the largest logit."""


def predictions(files: Sequence[Path], images: NDArray[np.uint8]) -> list[Prediction]:
    """Results of every file on this processor."""
    return [open_model(file, threads=1)(images) for file in files]


def emulated(processor: Processor, files: Sequence[Path], images: NDArray[np.uint8], folder: Path) -> list[Prediction]:
    """`predictions` on an emulated processor.

    Args:
        processor: One of `PROCESSORS`.
        files: As `lcprune export` wrote them, or folders of segments.
        images: ``(N, C, H, W)``.
        folder: For temporary files; the ARM64 Python that `arm64_python` made is in it.

    Raises:
        UnavailableError: If qemu is not installed.
        RuntimeError: If a file does not run.
    """
    given, results = folder / "images.npy", folder / f"{processor.name}.npz"
    np.save(given, images)
    if processor.arm_part:
        python = _arm64_command(processor, folder / "root")
    else:
        python = ["qemu-x86_64-static", "-cpu", processor.name, "-E", f"PYTHONPATH={RUNTIME}", sys.executable]
    done = _called([*python, __file__, str(results), str(given), *map(str, files)])
    if done.returncode:
        raise RuntimeError(f"on {processor.name}: {done.stderr[-2000:]}")
    with np.load(results) as found:
        arrays = [found[name] for name in found.files]
    return [Prediction(*arrays[first : first + 4]) for first in range(0, len(arrays), 4)]


def difference(here: Prediction, there: Prediction, thresholds: Sequence[float]) -> Difference:
    """Compares the results of one file on two processors; `thresholds` are the file's."""
    moved = here.exit_indices != there.exit_indices
    first = there.exit_indices < here.exit_indices
    confidences = np.where(first, there.confidences, here.confidences)[moved]
    limits = np.asarray(thresholds, np.float32)[np.minimum(here.exit_indices, there.exit_indices)[moved]]
    near = moved.copy()
    near[moved] = np.abs(confidences - limits) <= TIE
    gap = np.abs(here.logits - there.logits)[~moved].max(initial=0)
    return Difference(
        images=len(moved),
        exits=int((moved & ~near).sum()),
        labels=int(((here.labels != there.labels) & ~near).sum()),
        near_threshold=int(near.sum()),
        logits=float(gap / np.abs(here.logits).max()),
    )


def arm64_python(folder: Path) -> None:
    """Unpacks an ARM64 Python with the packages of a device below `folder`; nothing is installed or configured.

    Raises:
        UnavailableError: If apt-get or pip cannot download what it needs.
    """
    state, root, wheels = folder / "apt", folder / "root", folder / "wheels"
    (state / "lists/partial").mkdir(parents=True)
    (state / "cache/archives/partial").mkdir(parents=True)
    (state / "status").touch()
    options = {
        "Dir::State::lists": state / "lists",
        "Dir::State::status": state / "status",
        "Dir::Cache": state / "cache",
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "",
        "Debug::NoLocking": "true",
    }
    apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items())]
    _download([*apt, "update"])
    _download([*apt, "--yes", "--download-only", "install", *DEBIAN])
    for package in sorted((state / "cache/archives").glob("*.deb")):
        _download(["dpkg-deb", "--extract", str(package), str(root)])
    version = _arm64_binary(root).name.removeprefix("python")
    pip = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--only-binary=:all:"]
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    exact = [f"{name}=={metadata.version(name)}" for name in PACKAGES]
    _download([*pip, *platforms, "--python-version", version, "--dest", str(wheels), *exact])
    for wheel in wheels.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(root / "site")
    (root / "proc").mkdir()


def _arm64_command(processor: Processor, root: Path) -> list[str]:
    cores = (
        f"processor\t: {core}\nFeatures\t: {processor.arm_features}\nCPU implementer\t: 0x41\n"
        f"CPU architecture: 8\nCPU variant\t: 0x1\nCPU part\t: {processor.arm_part}\nCPU revision\t: 0\n\n"
        for core in range(2)
    )
    (root / "proc/cpuinfo").write_text("".join(cores))  # this machine's says nothing of ARM; onnxruntime needs it
    emulator = ["qemu-aarch64-static", "-cpu", processor.name, "-L", str(root)]
    environment = ["-E", "PYTHONHOME=/usr", "-E", f"PYTHONPATH={root / 'site'}:{RUNTIME}"]
    return [*emulator, *environment, str(_arm64_binary(root))]


def _arm64_binary(root: Path) -> Path:
    return next((root / "usr/bin").glob("python3.*"))


def _download(command: Sequence[str]) -> None:
    done = _called(command)
    if done.returncode:
        raise UnavailableError(f"{command[0]} failed: {done.stderr.strip()[-300:]}")


def _called(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    if shutil.which(command[0]) is None:
        raise UnavailableError(f"{command[0]} is not installed")
    clean = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
    return subprocess.run(command, capture_output=True, text=True, env=clean)


if __name__ == "__main__":
    results, given, *paths = map(Path, sys.argv[1:])
    answers = predictions(paths, np.load(given))
    np.savez(results, *(array for answer in answers for array in (*answer, answer.logits)))
