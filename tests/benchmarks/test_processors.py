"""The table of processors holds one row for each file and processor."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks import processors
from lcprune.data.sources import read_digits
from tests.trials import processors as emulation


def test_a_row_for_each_file_and_processor(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def emulated(processor: Any, files: Any, images: Any, folder: Path) -> list[Any]:
        return emulation.predictions(files, images if processor.name == "Haswell" else images[::-1])

    monkeypatch.setattr(emulation, "arm64_python", lambda folder: None)
    monkeypatch.setattr(emulation, "emulated", emulated)
    monkeypatch.setattr(
        processors, "in_web_assembly", lambda files, images, folder: emulation.predictions(files, images)
    )
    test = read_digits()[1]
    rows = processors.measure({"fp32": run / "export/progressive.onnx"}, test.images[:20], test.labels[:20])
    assert [row["processor"] for row in rows] == [
        *("this machine", "Haswell", "cortex-a53", "cortex-a76", "WebAssembly")
    ]
    assert [row["exits"] + row["labels"] > 0 for row in rows] == [False, False, True, True, False]
    assert rows[0]["accuracy_pct"] == rows[1]["accuracy_pct"]
    about = {"recipe": "digits", "machine": {"cpu": "a CPU"}, "vectors": ["avx2"], "refused": {"int8": "45 of 256"}}
    text = processors.page({**about, "rows": rows})
    assert text.endswith("overflow: int8 (45 of 256).")
    assert "`digits`, 20 test images: how many take another exit or class than on a CPU (avx2), those" in text
    assert f"| fp32 | Haswell | 0 | 0 | 0 | 0.0e+00 | {rows[0]['accuracy_pct']:.1f} % |" in text
