"""The tests in fresh environments: with the oldest torch that lcprune supports, the newest, and one between.

    python -m benchmarks.matrix [ROW ...] [--seed N] [--save] -- PYTEST_ARGUMENTS

Every row makes an environment in a temporary folder, installs the checkout into it with the row's torch and the newest
of everything else, runs the tests in it and removes it. It fails where a test fails; `newest` also where a dependency
deprecates what is used here. Pythons are those on the PATH: `oldest` takes the oldest, `between` the middle one, and
`newest` the newest that pip finds a torch for.
"""

import json
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import markdown
from benchmarks.provenance import RESULTS, command_line, provenance, read, save

ROOT = Path(__file__).parents[1]
RESULT = RESULTS / "matrix.json"
PACKAGES = ("python", "torch", "torchvision", "numpy", "onnx", "onnxruntime")
NO_WHEEL = re.compile(r"No matching distribution found for torch\b")
VERSION = "import ensurepip, sys; print(*sys.version_info[:2])"
VERSIONS = "import json; from benchmarks.provenance import provenance; print(json.dumps(provenance('', 0)['versions']))"
COUNTS = ("tests", "failures", "errors", "skipped")


@dataclass(frozen=True)
class Row:
    """What is installed, and where in the list of Pythons to begin."""

    requirements: tuple[str, ...]
    python: float
    """0 is the oldest Python, 1 the newest."""
    options: tuple[str, ...] = ()
    """For pytest."""


def main() -> int:
    """Reads the command line, runs the rows and prints the table; 130 if it is interrupted."""
    rows = all_rows()
    parser = command_line("benchmarks.matrix", __doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"{', '.join(rows)}; left out, all of them")
    parser.add_argument("--seed", type=int, help="of the order of the tests; left out, one at random")
    parser.add_argument("--save", action="store_true", help=f"write {RESULT.relative_to(ROOT)}, whose other rows stay")
    at = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    options, for_pytest = parser.parse_args(sys.argv[1:at]), sys.argv[at + 1 :]
    if unknown := [name for name in options.rows if name not in rows]:
        parser.error(f"no row is named {unknown[0]}: there are {', '.join(rows)}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    outcomes: list[dict[str, Any]] = []
    try:
        for name in options.rows or rows:
            seed = random.randrange(2**31) if options.seed is None else options.seed
            outcomes.append(run(name, rows[name], seed, for_pytest))
    except KeyboardInterrupt:
        print("\ninterrupted")
        return 130
    finally:
        print(f"\n{table(outcomes)}")
    if options.save:
        about = provenance("benchmarks.matrix", 0) | {"seed": "of each row", "versions": "of each row"}
        known = {row["row"]: row for row in [*read(RESULT).get("rows", ()), *outcomes]}
        save(RESULT, {**about, "rows": [known[name] for name in rows if name in known]})
    return int(any(outcome["problem"] for outcome in outcomes))


def all_rows() -> dict[str, Row]:
    """The oldest versions are the lower bounds of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lower = dict(line.split(">=", 1) for line in project["dependencies"] if ">=" in line)
    oldest = tuple(f"{name}=={lower[name]}.*" for name in ("torch", "torchvision"))
    return {
        "oldest": Row(oldest, 0),
        "between": Row(("torch==2.13.*", "torchvision==0.28.*"), 0.5),
        "newest": Row((), 1, ("--fail-on-deprecation",)),
    }


def run(name: str, row: Row, seed: int, for_pytest: Sequence[str]) -> dict[str, Any]:
    """Makes the environment, runs the tests in it and removes it; a row of the result, whose problem may be empty."""
    outcome = {"row": name, "seed": seed, "versions": {}}
    outcome |= dict.fromkeys(("passed", "failed", "skipped", "install_s", "test_s"), 0)
    with tempfile.TemporaryDirectory(prefix="lcprune-matrix-", ignore_cleanup_errors=True) as folder:
        python, report = Path(folder, "env", "bin", "python"), Path(folder, "report.xml")
        begin = time.monotonic()
        if problem := install(python, row):
            print(f"{name}: {problem}")
            return {**outcome, "install_s": round(time.monotonic() - begin), "problem": problem}
        versions = json.loads(subprocess.check_output([python, "-c", VERSIONS], cwd=ROOT, text=True))
        said = ", ".join(f"{package} {versions[package]}" for package in PACKAGES)
        print(f"{name}: {said}; seed {seed}", flush=True)
        installed = time.monotonic()
        command = [python, "-m", "pytest", f"--randomly-seed={seed}", f"--junitxml={report}"]
        code = subprocess.run([*command, *row.options, *for_pytest], cwd=ROOT).returncode
        tests, failures, errors, skipped = count(report)
        failed = failures + errors
        problem = "" if code == 0 else f"{failed} failed" if failed else f"pytest: exit code {code}, see above"
        outcome |= {"versions": versions, "passed": tests - failed - skipped, "failed": failed, "skipped": skipped}
        times = {"install_s": round(installed - begin), "test_s": round(time.monotonic() - installed)}
        return {**outcome, **times, "problem": problem}


def install(python: Path, row: Row) -> str:
    """Makes the environment of `python` with the row's requirements; returns why it cannot be, or nothing."""
    found = pythons()
    candidates = found[: round(row.python * (len(found) - 1)) + 1]
    log = ""
    for base in reversed(candidates):
        print(f"Making an environment with {' '.join([base, *row.requirements])}", flush=True)
        subprocess.run([base, "-m", "venv", "--clear", python.parents[1]], check=True)
        pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off", "-q"]
        done = subprocess.run(
            [*pip, *row.requirements, "-e", "runtime", "-e", ".[dev]"], cwd=ROOT, capture_output=True, text=True
        )
        if not done.returncode:
            return ""
        log = done.stderr
        if row.requirements or not NO_WHEEL.search(log):
            break
    errors = [line.removeprefix("ERROR: ") for line in log.splitlines() if line.startswith("ERROR: ")]
    return f"not installed: {errors[-1] if errors else log.strip()[-200:]}"


def pythons() -> list[str]:
    """Pythons from 3.11 on the PATH that can make an environment, one of each version, the oldest first."""
    found: dict[tuple[int, ...], str] = {}
    for name in (sys.executable, *(f"python3.{minor}" for minor in range(11, 30))):
        if path := shutil.which(name):
            done = subprocess.run([path, "-c", VERSION], capture_output=True, text=True)
            if not done.returncode:
                found.setdefault(tuple(map(int, done.stdout.split())), path)
    return [found[version] for version in sorted(found)]


def count(report: Path) -> tuple[int, ...]:
    """Tests, failures, errors and skipped tests; zeros where pytest wrote no report."""
    if not report.exists():
        return (0,) * len(COUNTS)
    suites = list(ET.parse(report).getroot().iter("testsuite"))
    return tuple(sum(int(suite.get(name, 0)) for suite in suites) for name in COUNTS)


def table(outcomes: Iterable[Mapping[str, Any]]) -> str:
    """In Markdown."""
    header = ("", *PACKAGES, "passed", "failed", "skipped", "install", "tests", "")
    rows = []
    for outcome in outcomes:
        counts = [f"{outcome[name]:,}" for name in ("passed", "failed", "skipped")]
        times = [f"{outcome[name]:,} s" for name in ("install_s", "test_s")]
        shown = [outcome["versions"].get(package, "-") for package in PACKAGES]
        rows.append((f"`{outcome['row']}`", *shown, *counts, *times, outcome["problem"] or "green"))
    return markdown.table(header, rows)


if __name__ == "__main__":
    sys.exit(main())
