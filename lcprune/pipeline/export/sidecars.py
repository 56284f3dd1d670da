"""What lies beside an exported file: its model card, its segments, and the operators of a reduced runtime."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from lcprune import runs
from lcprune.exporters.quantize import Stages
from lcprune.exporters.segment_session import MANIFEST
from lcprune.exporters.segments import write_segments
from lcprune.exporters.session import ProgressiveSession
from lcprune.pipeline.export.request import ExportRequest
from lcprune.recipe import Recipe
from lcprune.reporting.model_card import model_card
from lcprune.specs import FORMATS, PRECISIONS, format_of


def segments_beside(
    path: Path, request: ExportRequest, stages: Callable[[], Stages], images: np.ndarray[Any, Any]
) -> dict[str, Any]:
    """Writes the segments of a progressive file, where they were asked for, and says where.

    Args:
        path: Of the file, which is there.
        request: What was asked for.
        stages: Gives the stages that the file was made of.
        images: For the check.
    """
    if not request.segments:
        return {}
    folder = path.with_name(f"{path.stem}-segments")
    allowed = PRECISIONS[request.precision].max_relative_diff
    write_segments(stages(), folder, ProgressiveSession(path).info, images, allowed)
    return {"segments": str(folder / MANIFEST)}


def write_sidecars(recipe: Recipe, result: dict[str, Any]) -> dict[str, Any]:
    """Writes the model card of an export, and for onnxruntime's own format the operators that it needs.

    Returns:
        `result`, with ``card``, with ``operators`` where they were written, and with ``files``: all that was written.
    """
    path = Path(result["path"])
    result = dict(result)
    if module := format_of(path.suffix).module:
        operators = path.with_name(f"{path.stem}.required_operators.config")
        runs.write_text(operators, import_module(module).required_operators(path))
        result["operators"] = str(operators)
    card = path.with_suffix(".md") if path.suffix == FORMATS["onnx"].suffix else path.with_name(f"{path.name}.md")
    runs.write_text(card, model_card(path, ProgressiveSession(path).info, result, recipe))
    result["card"] = str(card)
    files = [path, card]
    if "operators" in result:
        files.append(Path(result["operators"]))
    if "segments" in result:
        files += sorted(Path(result["segments"]).parent.iterdir())
    return result | {"files": [str(file) for file in files]}


def record(folder: Path, result: dict[str, Any]) -> None:
    """Adds what was written inside the run `folder` to its manifest, and drops segments that are no longer there."""
    inside = folder.resolve()
    written = [Path(file).resolve() for file in result["files"]]
    names = [file.relative_to(inside).as_posix() for file in written if file.is_relative_to(inside)]
    kept = {name.rpartition("/")[0] for name in names if name.endswith(f"/{MANIFEST}")}
    stale = [name for name in runs.recorded_files(folder) if name.rpartition("/")[0] in kept and name not in names]
    runs.remove(folder, *stale)
    runs.record(folder, *names, made_from=[runs.WEIGHTS, runs.PREDICTIONS])
