"""Sizes and latencies of a run's sub-models and of its cascade, measured in onnxruntime."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lcprune import runs
from lcprune.analysis.cost import NetworkCost
from lcprune.analysis.counting import count_cost
from lcprune.analysis.thresholds import NEVER
from lcprune.data import sources
from lcprune.exporters.progressive import write_network
from lcprune.models import Network
from lcprune.pipeline import stored
from lcprune.pipeline.costs import cost_rows, costs_of, write_costs
from lcprune.pipeline.info import RunInfo, file_info
from lcprune.recipe import Recipe
from lcprune_runtime.latency import compare_latency
from lcprune_runtime.progress import tracked
from lcprune_runtime.session import ProgressiveSession

LATENCY_RUNS = 100


def profile_run(folder: Path) -> dict[str, Any]:
    """Counts and measures the costs of a finished run anew and writes ``profile.json``.

    Raises:
        RunError: If the run is not finished.
        ProfileError: If the network's cost cannot be counted.
    """
    folder, recipe = runs.open_run(folder)
    network, facts = stored.load_network(folder, recipe)
    cost = count_cost(network, facts.image_shape)
    preparation = sources.preparation(recipe.data, facts.image_shape)
    run = RunInfo(facts, preparation, runs.sha256(folder / runs.RECIPE), cost.cascade.main_macs)
    with tempfile.TemporaryDirectory() as scratch:
        paths = _export_all(network, run, cost, Path(scratch))
        latencies = compare_latency([ProgressiveSession(path, threads=1) for path in paths], LATENCY_RUNS)
        measured = [
            replace(row, size_bytes=path.stat().st_size, latency_ms=latency.median_ms)
            for row, path, latency in zip(cost_rows(network, cost), paths, latencies, strict=True)
        ]
    return write_costs(folder, cost, measured)


def measured_costs(folder: Path, recipe: Recipe) -> NetworkCost:
    """`costs_of` with sizes and latencies, measured now where they have not been.

    Raises:
        RunError: If the run is not finished, or ``profile.json`` is damaged.
    """
    cost = costs_of(folder, recipe)
    if all(row.latency_ms is not None for row in cost.exits):
        return cost
    profile_run(folder)
    return costs_of(folder, recipe)


def _export_all(network: Network, run: RunInfo, cost: NetworkCost, folder: Path) -> list[Path]:
    """Every sub-model, and the cascade with no early exit taken, as ONNX files."""
    images = np.random.default_rng(0).integers(0, 256, (8, *run.facts.image_shape), dtype=np.uint8)
    paths = []
    for k in tracked(range(1, len(network.groups) + 1), "exporting sub-models"):
        paths.append(folder / f"{k}.onnx")
        write_network(network.truncated(k), (), paths[-1], file_info(run, cost.kept([k - 1])), images)
    kept = range(len(network.critics))
    if not kept:
        return [*paths, paths[-1]]  # main alone is the cascade
    paths.append(folder / "cascade.onnx")
    write_network(network, kept, paths[-1], file_info(run, cost, (NEVER,) * len(kept)), images)
    return paths
