"""The README's example on the embedded digits, as JSON.

python -m benchmarks.digits    writes results/digits_cpu.json
"""

import json
import tempfile
from pathlib import Path

from benchmarks.cifar10_small import SEED, lcprune
from benchmarks.provenance import provenance

RESULT = Path("benchmarks/results/digits_cpu.json")


def main() -> None:
    """Trains, selects and exports in a scratch folder."""
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch) / "digits"
        result = {
            **provenance("benchmarks.digits", SEED),
            "train": lcprune("train", "digits", "--out", str(run), "--device", "cpu"),
            "select": lcprune("select", str(run), "--max-drop", "2.0"),
            "export": lcprune("export", str(run), "--format", "onnx", "--progressive", "--threshold", "0.99"),
        }
    RESULT.write_text(json.dumps(result, indent=2).replace(scratch, "FOLDER") + "\n")
    print(RESULT)


if __name__ == "__main__":
    main()
