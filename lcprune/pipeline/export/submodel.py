"""One sub-model as a file that goes straight through."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lcprune import runs
from lcprune.analysis.cost import CascadeCost
from lcprune.errors import RunError
from lcprune.exporters.metadata import ModelInfo
from lcprune.exporters.progressive import file_size, submodel_stages, write_reduced, write_submodel
from lcprune.pipeline.export.loaded_run import (
    MAIN,
    LoadedRun,
    exit_number,
    load_dataset,
    output_path,
    parity_images,
    written,
)
from lcprune.pipeline.export.reduced import reduce_network, reduction, warn_of_loss
from lcprune.pipeline.export.request import ExportRequest
from lcprune.pipeline.info import submodel_info


def export_submodel(loaded: LoadedRun, request: ExportRequest, notice: Callable[[str], None]) -> dict[str, Any]:
    """Writes the sub-model that was named, or else selected."""
    k = _submodel_number(loaded, request.exit_name)
    cost = loaded.costs.exits[k - 1]
    path = output_path(loaded, request, MAIN if cost.name == MAIN else f"sub-model-{k}")
    val, test = loaded.scores.accuracies("val"), loaded.scores.accuracies("test")
    result = {
        "name": cost.name,
        "thresholds": [],
        "test_accuracy_pct": test[k - 1] if test else None,
        "main_test_accuracy_pct": test[-1] if test else None,
        "mean_macs": cost.macs,
        "macs_ratio": cost.macs / loaded.main_macs,
        "exit_fractions": [1.0],
    }
    info = request.shape(submodel_info(loaded.recipe, loaded.facts, loaded.costs, k, val, test))
    if request.precision != "fp32":
        return result | _export_reduced_submodel(loaded, request, k, path, info, notice)
    parity = write_submodel(loaded.network, k, path, info, parity_images(load_dataset(loaded)))
    return {**written(path, "submodel", "fp32", parity), **result}


def _export_reduced_submodel(
    loaded: LoadedRun, request: ExportRequest, k: int, path: Path, info: ModelInfo, notice: Callable[[str], None]
) -> dict[str, Any]:
    """What is different in a sub-model of another precision; `info` is that of float32."""
    if request.precision == "fp32":
        raise ValueError("fp32 is not reduced")
    dataset = load_dataset(loaded)
    images = parity_images(dataset)
    stages = submodel_stages(loaded.network, k, images)
    cost = CascadeCost((loaded.costs.exits[k - 1].macs,), ())
    own = reduce_network(stages, request.precision, dataset, cost, request, loaded.recipe.train.seed)
    val, test = (own.accuracies(split, [k - 1], len(loaded.costs.exits)) for split in ("val", "test"))
    own_info = request.shape(submodel_info(loaded.recipe, loaded.facts, loaded.costs, k, val, test))
    parity = write_reduced(own.reduced, (), path, own_info, images)
    warn_of_loss(own, request.precision, notice)
    return {
        **written(path, "submodel", request.precision, parity),
        **reduction(own),
        "test_accuracy_pct": test[k - 1] if test else None,
        "fp32": {
            "size_bytes": file_size(stages, (), info),
            "test_accuracy_pct": info.exits[0].test_accuracy_pct,
            "macs_ratio": loaded.costs.exits[k - 1].macs / loaded.main_macs,
            "exit_fractions": [1.0],
        },
    }


def _submodel_number(loaded: LoadedRun, exit_name: str | None) -> int:
    """The number of the sub-model to export, from 1."""
    if exit_name is None:
        if not (loaded.folder / runs.SELECTION).exists():
            raise RunError(
                f"nothing was selected in {loaded.folder} yet",
                "choose first with `lcprune select --max-drop 2.0`, or name one: --exit 1 .. --exit main",
            )
        selection = runs.read_json(runs.require(loaded.folder, runs.SELECTION, f"lcprune select {loaded.folder}"))
        return int(selection["selected"]["exit_index"]) + 1
    return exit_number(loaded, exit_name)
