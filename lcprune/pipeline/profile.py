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
from lcprune.exporters.latency import compare_latency
from lcprune.exporters.progressive import write_network
from lcprune.exporters.session import ProgressiveSession
from lcprune.models import Network
from lcprune.pipeline import stored
from lcprune.pipeline.costs import cost_rows, costs_of, write_costs
from lcprune.pipeline.info import file_info
from lcprune.pipeline.stored import DataFacts
from lcprune.recipe import Recipe

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
    with tempfile.TemporaryDirectory() as scratch:
        paths = _export_all(network, recipe, facts, cost, Path(scratch))
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


def _export_all(network: Network, recipe: Recipe, facts: DataFacts, cost: NetworkCost, folder: Path) -> list[Path]:
    """Every sub-model, and the cascade with no early exit taken, as ONNX files."""
    images = np.random.default_rng(0).integers(0, 256, (8, *facts.image_shape), dtype=np.uint8)
    paths = []
    for k in range(1, len(network.groups) + 1):
        paths.append(folder / f"{k}.onnx")
        info = file_info(recipe, facts, cost.kept([k - 1]), cost.cascade.main_macs)
        write_network(network.truncated(k), (), paths[-1], info, images)
    kept = range(len(network.critics))
    if not kept:
        return [*paths, paths[-1]]  # main alone is the cascade
    paths.append(folder / "cascade.onnx")
    info = file_info(recipe, facts, cost, cost.cascade.main_macs, (NEVER,) * len(kept))
    write_network(network, kept, paths[-1], info, images)
    return paths
