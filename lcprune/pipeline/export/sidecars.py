"""What lies beside an exported file: its model card, its segments, and the operators of a reduced runtime."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from lcprune import runs
from lcprune.exporters.segments import write_segments
from lcprune.pipeline.export.exported_cascade import ExportedCascade
from lcprune.pipeline.export.loaded_run import LoadedRun
from lcprune.pipeline.export.request import ExportRequest
from lcprune.reporting.model_card import model_card
from lcprune.specs import FORMATS
from lcprune_runtime.metadata import ModelInfo
from lcprune_runtime.segment_session import MANIFEST


def write_sidecars(
    run: LoadedRun,
    request: ExportRequest,
    result: dict[str, Any],
    info: ModelInfo,
    cascade: ExportedCascade,
    thresholds: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Writes what lies beside an exported file, and records all of it in the run.

    That is the model card, the segments if they were asked for, what the format needs besides, and
    ``thresholds.json`` of the run.

    Args:
        run: Which was exported.
        request: What was asked for.
        result: Of the file, which is there.
        info: Its metadata.
        cascade: Which the file was made of.
        thresholds: Content of ``thresholds.json``; None where none were calibrated.

    Returns:
        `result`, with ``card``, with ``segments`` and ``operators`` where they were written, and with ``files``: all
        that was written.
    """
    path = Path(result["path"])
    files = written_files(path)
    if request.segments:
        folder = path.with_name(f"{path.stem}-segments")
        write_segments(cascade.stages, cascade.reference, folder, info)
        result = result | {"segments": str(folder / MANIFEST)}
        files += sorted(folder.iterdir())
    spec = FORMATS[request.file_format]
    if spec.module and not spec.package:
        operators = path.with_name(f"{path.stem}.required_operators.config")
        runs.write_text(operators, import_module(spec.module).required_operators(path))
        result = result | {"operators": str(operators)}
        files.append(operators)
    card = path.with_suffix(".md") if path.suffix == FORMATS["onnx"].suffix else path.with_name(f"{path.name}.md")
    runs.write_text(card, model_card(path, info, result, run.recipe))
    _record(run.folder, [*files, card], thresholds)
    return result | {"card": str(card), "files": [str(file) for file in [*files, card]]}


def written_files(path: Path) -> list[Path]:
    """The file, or all files of the folder, that an export wrote."""
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _record(folder: Path, files: Sequence[Path], thresholds: Mapping[str, Any] | None) -> None:
    """Adds what was written inside the run `folder` to its manifest, and drops segments that are no longer there."""
    if thresholds is not None:
        runs.write_json(folder / runs.THRESHOLDS, thresholds)
        runs.record(folder, runs.THRESHOLDS, made_from=[runs.PREDICTIONS])
    inside = folder.resolve()
    written = [file.resolve() for file in files]
    names = [file.relative_to(inside).as_posix() for file in written if file.is_relative_to(inside)]
    kept = {name.rpartition("/")[0] for name in names if name.endswith(f"/{MANIFEST}")}
    of_folders = [name for name in runs.recorded_files(folder) if any(name.startswith(f"{each}/") for each in kept)]
    stale = [name for name in of_folders if name not in names]
    runs.remove(folder, *stale)
    runs.record(folder, *names, made_from=[runs.WEIGHTS, runs.PREDICTIONS])
