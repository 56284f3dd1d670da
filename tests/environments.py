"""Virtual environments with more packages than the one that the tests run in."""

import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

import pytest


def with_packages(folder: Path, requirements: Sequence[str]) -> Path:
    """The Python of a new environment with the packages of this one and `requirements`; skips if pip has none."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    site = subprocess.check_output([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True)
    here = [path for path in sys.path if path.endswith("site-packages")]
    Path(site.strip(), "inherited.pth").write_text("\n".join(here))
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "-q", *requirements]
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{' '.join(requirements)} cannot be installed here: {done.stderr.strip()[-200:]}")
    return python
