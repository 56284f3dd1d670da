"""Exporting a run: the selected sub-model, or one graph that stops early."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lcprune import runs
from lcprune.pipeline.export.loaded_run import load
from lcprune.pipeline.export.progressive import export_progressive
from lcprune.pipeline.export.request import ExportRequest, refuse_contradictions
from lcprune.pipeline.export.sidecars import record, write_companions
from lcprune.pipeline.export.submodel import export_submodel

__all__ = ["ExportRequest", "export"]


def export(folder: Path, request: ExportRequest, notice: Callable[[str], None]) -> dict[str, Any]:
    """Writes the file, checked against torch, and what lies beside it, and says what it is.

    Raises:
        RunError: If the run is not finished, or nothing was selected and no exit named.
        BudgetError: If no early exit pays within the budget.
        ExportError: If the request contradicts itself, or the file differs from torch; then there is no file.
    """
    refuse_contradictions(request)
    folder, recipe = runs.open_run(folder)
    loaded = load(folder, recipe, request)
    exporter = export_progressive if request.progressive else export_submodel
    result = write_companions(recipe, exporter(loaded, request, notice))
    record(folder, result)
    return result
