"""How long it takes, and how much memory, to list a folder of very many images.

It makes empty files in a temporary folder, lists them in a process of their own, and removes them. Run it from the root
of the repository: ``python -m benchmarks.listing``.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.provenance import provenance

RESULT = Path(__file__).parent / "results" / "listing.json"


def main() -> None:
    """Measures, and writes the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=200_000)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--list", type=Path, help="list this folder and say what it took; the script calls itself so")
    options = parser.parse_args()
    if options.list is not None:
        print(json.dumps(listed(options.list)))
        return
    with tempfile.TemporaryDirectory(prefix="lcprune-listing-") as name:
        make_files(Path(name), options.files, options.classes)
        command = [sys.executable, "-m", "benchmarks.listing", "--list", name]
        runs = [
            json.loads(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(options.repeats)
        ]
    result = {
        **provenance("benchmarks.listing", seed=0),
        "files": options.files,
        "classes": options.classes,
        "limits": {"seconds": 20, "peak_memory_bytes": 2**30},
        "runs": runs,
    }
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(runs, indent=2))


def make_files(root: Path, files: int, classes: int) -> None:
    """``train/CLASS/NUMBER.jpg``, empty, evenly over the classes."""
    for label in range(classes):
        folder = root / "train" / f"class_{label:04d}"
        folder.mkdir(parents=True)
        for number in range(label, files, classes):
            (folder / f"{number:08d}.jpg").touch()


def listed(root: Path) -> dict[str, float]:
    """What listing takes in this process: time, and the most memory that the process ever had."""
    from lcprune.data.files import list_folder

    before = peak_bytes()
    started = time.perf_counter()
    listing = list_folder(root)
    seconds = time.perf_counter() - started
    return {
        "found": len(listing.train),
        "seconds": round(seconds, 3),
        "peak_memory_bytes": peak_bytes(),
        "of_it_listing_bytes": peak_bytes() - before,
    }


def peak_bytes() -> int:
    """The most memory that this process ever had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    main()
