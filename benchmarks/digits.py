"""The README's example on the embedded digits, as JSON.

python -m benchmarks.digits    writes results/digits_cpu.json
"""

import tempfile
from pathlib import Path

from benchmarks.commands import lcprune, train
from benchmarks.provenance import RESULTS, command_line, provenance, save


def main() -> None:
    """Trains, selects and exports in a scratch folder."""
    command_line("benchmarks.digits", __doc__).parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch) / "digits"
        result = {
            **provenance("benchmarks.digits", seed=0),
            "train": train("digits", run, Path("data")),
            "select": lcprune("select", str(run), "--max-drop", "2.0"),
            "export": lcprune("export", str(run), "--format", "onnx", "--progressive", "--threshold", "0.99"),
        }
    save(RESULTS / "digits_cpu.json", result, {scratch: "FOLDER"})


if __name__ == "__main__":
    main()
