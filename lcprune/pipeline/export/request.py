"""What a user asks to be exported."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lcprune.errors import ExportError
from lcprune.specs import FORMATS, Criterion, Format, Int8Range, Layout, MeanCost, Precision, ThresholdInput, format_of


@dataclass(frozen=True)
class ExportRequest:
    """What a user asks to be exported."""

    progressive: bool
    exit_name: str | None
    """``1`` .. ``main``, or ``2@96``; None takes the selection. Of a progressive graph the last exit; None is main."""
    threshold: str
    """``auto``, one number for all exits, or one for each with commas between."""
    max_drop_pct: float | None
    """Budget of ``auto``; None takes the selection's."""
    confidence: float | None
    exits: tuple[str, ...] | None
    """Early exits to keep, as `exit_name`."""
    threshold_input: ThresholdInput
    use_test_split: bool
    output: Path | None
    max_macs: int | None = None
    """Instead of `max_drop_pct`: most mean MACs of an image."""
    max_latency_ms: float | None = None
    """Instead of `max_drop_pct`: longest mean time of an image, batch 1, one thread, on this machine."""
    minimize: MeanCost = "macs"
    """What becomes least within `max_drop_pct`; the latency is that of `max_latency_ms`."""
    criterion: Criterion | Literal["auto"] = "softmax"
    """Score that is compared with the thresholds; ``auto`` takes the one that costs least within the budget."""
    temperature: bool = True
    """Whether temperature scaling is applied before `auto` thresholds are chosen."""
    precision: Precision = "fp32"
    int8_range: Int8Range = "safe"
    layout: Layout = "nested"
    batch: Literal[1] | None = None
    """Batch size of the file; None for any, but formats of other runtimes take one image."""
    segments: bool = False
    """Whether one file per segment is written beside a progressive model."""
    file_format: Format = "onnx"

    @property
    def is_folder(self) -> bool:
        """Whether a folder is written: a progressive model for a runtime that takes no branches."""
        return self.progressive and FORMATS[self.file_format].package is not None

    @property
    def calibrates(self) -> bool:
        """Whether thresholds are to be found, not named."""
        return self.threshold == "auto"


def refuse_contradictions(request: ExportRequest) -> None:
    """Raises an ExportError where options do not go together."""
    asks = {
        "--exits": request.exits is not None,
        "--threshold": request.threshold != "auto",
        "--max-drop": request.max_drop_pct is not None,
        "--confidence": request.confidence is not None,
        "--max-macs": request.max_macs is not None,
        "--max-latency-ms": request.max_latency_ms is not None,
        "--criterion": request.criterion != "softmax",
        "--no-temperature": not request.temperature,
        "--minimize": request.minimize != "macs",
        "--threshold-input": request.threshold_input != "optional",
        "--layout": request.layout != "nested",
        "--segments": request.segments,
    }
    if not request.progressive and (given := [name for name, asked in asks.items() if asked]):
        raise ExportError(f"{given[0]} is about progressive graphs", "add --progressive, or leave it out")
    if request.int8_range != "safe" and request.precision != "int8":
        raise ExportError("--int8-range is about int8 files", "add --precision int8, or leave it out")
    budgets = [name for name in ("--max-drop", "--max-macs", "--max-latency-ms") if asks[name]]
    if len(budgets) > 1:
        raise ExportError(f"{' and '.join(budgets)} are budgets of different things", "give one of them")
    if asks["--confidence"] and (asks["--max-macs"] or asks["--max-latency-ms"]):
        raise ExportError("--confidence is about the points that --max-drop allows", "leave it out")
    if asks["--minimize"] and (asks["--max-macs"] or asks["--max-latency-ms"]):
        raise ExportError("--minimize is about the points that --max-drop allows", "leave it out")
    of_auto = ("--confidence", *budgets, "--no-temperature", "--minimize")
    if not request.calibrates and (given := [name for name in of_auto if asks[name]]):
        raise ExportError(f"{given[0]} is about calibrated thresholds", "leave it out, or write --threshold auto")
    if not request.calibrates and request.criterion == "auto":
        raise ExportError(
            "--criterion auto is about calibrated thresholds", "name a criterion, or write --threshold auto"
        )
    if request.layout == "flat" and request.batch is not None:
        raise ExportError(
            "--batch 1 fixes the shapes, and in a flat graph the rows get fewer",
            "write --layout nested, or --segments for hosts that take no branches",
        )
    if request.layout == "shared" and request.precision != "int8":
        raise ExportError(
            "--layout shared is about int8 files: in float each size has weights of its own", "add --precision int8"
        )
    file_format = FORMATS[request.file_format]
    of_onnx = {"--precision": request.precision != "fp32", "--batch": request.batch is not None}
    of_onnx |= {name: asks[name] for name in ("--layout", "--segments", "--threshold-input")}
    if file_format.package and (given := [name for name, asked in of_onnx.items() if asked]):
        raise ExportError(
            f"{given[0]} is not known to --format {request.file_format}, whose files are float32 and take one image",
            "leave it out, or leave --format out",
        )
    if reason := file_format.refused.get(request.precision):
        raise ExportError(
            f"--format {request.file_format} does not take --precision {request.precision}: {reason}",
            "leave out --format, or write another --precision",
        )
    if request.output is not None and not request.is_folder and format_of(request.output.suffix) != file_format:
        raise ExportError(
            f"--format {request.file_format} does not write {request.output}",
            f"name a file that ends with {file_format.suffix}, or another --format",
        )
