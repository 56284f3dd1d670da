"""The cost of a run's sub-models and of its cascade: counted, and measured in onnxruntime."""

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lcprune import runs
from lcprune.analysis.evaluate import CascadeCost
from lcprune.analysis.profile import ExitCost, NetworkCost, count_params, profile
from lcprune.analysis.thresholds import NEVER
from lcprune.errors import RunError
from lcprune.export.latency import compare_latency
from lcprune.export.progressive import write_progressive, write_submodel
from lcprune.export.session import ProgressiveSession
from lcprune.models import Network
from lcprune.pipeline import stored
from lcprune.pipeline.info import progressive_info, submodel_info
from lcprune.recipe import Recipe

LATENCY_RUNS = 100


@dataclass(frozen=True)
class ExitProfile:
    """Cost of one sub-model that stands alone, or of the cascade that nobody leaves early."""

    name: str
    exit_index: int
    macs: int
    """For one image."""
    params: int
    macs_ratio: float
    """To main."""
    size_bytes: int
    """Of its ONNX file."""
    latency_ms: float
    """In onnxruntime on this machine's CPU: batch 1, one thread, median."""


@dataclass(frozen=True)
class Costs:
    """What ``profile.json`` holds."""

    exits: tuple[ExitProfile, ...]
    counted: NetworkCost

    @property
    def cascade(self) -> CascadeCost:
        """The MACs of the parts."""
        return CascadeCost(self.counted.group_macs, self.counted.critic_macs)

    def ending_at(self, k: int) -> "Costs":
        """Of the first `k` exits alone; ratios are still to main."""
        return Costs(self.exits[:k], self.counted.ending_at(k))


def profile_run(folder: Path) -> dict[str, Any]:
    """Profiles a finished run anew and writes ``profile.json``.

    Raises:
        RunError: If the run is not finished.
        ProfileError: If the network's cost cannot be counted.
    """
    folder, recipe = runs.open_run(folder)
    content = _measure(folder, recipe)
    runs.write_json(folder / runs.PROFILE, content)
    runs.record(folder, runs.PROFILE, made_from=[runs.WEIGHTS])
    return content


def costs_of(folder: Path, recipe: Recipe) -> Costs:
    """The costs of a run, profiled now if they have not been, or were for other weights.

    Raises:
        RunError: If the run is not finished, or ``profile.json`` is damaged.
    """
    if (folder / runs.PROFILE).exists() and not runs.changed_sources(folder, runs.PROFILE):
        content = runs.read_json(runs.require(folder, runs.PROFILE, f"lcprune profile {folder}"))
    else:
        content = profile_run(folder)
    try:
        exits = tuple(ExitProfile(**row) for row in content["exits"])
        return Costs(
            exits=exits,
            counted=NetworkCost(
                exits=tuple(ExitCost(row.name, row.exit_index, row.macs, row.params) for row in exits),
                group_macs=tuple(content["group_macs"]),
                critic_macs=tuple(content["critic_macs"]),
                cascade_macs=content["cascade_macs"],
            ),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{folder / runs.PROFILE} is damaged ({error})", f"run this: lcprune profile {folder}") from None


def counted_costs(folder: Path, recipe: Recipe) -> NetworkCost:
    """MACs and parameters of a run's network, counted now; nothing is exported or timed.

    Raises:
        RunError: If the run is not finished.
        ProfileError: If the network's cost cannot be counted.
    """
    network, facts = stored.load_network(folder, recipe)
    return profile(network, facts.image_shape)


def _measure(folder: Path, recipe: Recipe) -> dict[str, Any]:
    network, facts = stored.load_network(folder, recipe)
    cost = profile(network, facts.image_shape)
    main_macs = cost.exits[-1].macs
    counted = [(exit_cost.name, exit_cost.exit_index, exit_cost.macs, exit_cost.params) for exit_cost in cost.exits]
    params = count_params(network.groups) + count_params(network.critics)  # what trains alone needs is no part of it
    counted.append(("cascade", len(network.critics), cost.cascade_macs, params))
    with tempfile.TemporaryDirectory() as scratch:
        paths = _export_all(network, recipe, facts, cost, Path(scratch))
        latencies = compare_latency([ProgressiveSession(path, threads=1) for path in paths], LATENCY_RUNS)
        sizes = [path.stat().st_size for path in paths]
    rows = [
        asdict(ExitProfile(name, index, macs, params, macs / main_macs, size, latency.median_ms))
        for (name, index, macs, params), size, latency in zip(counted, sizes, latencies, strict=True)
    ]
    return {
        "exits": rows[:-1],
        "cascade": rows[-1],
        "group_macs": list(cost.group_macs),
        "critic_macs": list(cost.critic_macs),
        "cascade_macs": cost.cascade_macs,
    }


def _export_all(
    network: Network, recipe: Recipe, facts: stored.DataFacts, cost: NetworkCost, folder: Path
) -> list[Path]:
    """Every sub-model, and the cascade that nobody leaves early, as ONNX files."""
    images = np.random.default_rng(0).integers(0, 256, (8, *facts.image_shape), dtype=np.uint8)
    paths = []
    for k in range(1, len(network.groups) + 1):
        paths.append(folder / f"{k}.onnx")
        write_submodel(network, k, paths[-1], submodel_info(recipe, facts, cost, k), images)
    kept = tuple(range(len(network.critics)))
    if not kept:
        return [*paths, paths[-1]]  # main alone is the cascade
    info = progressive_info(recipe, facts, cost, kept)
    write_progressive(network, kept, (NEVER,) * len(kept), folder / "cascade.onnx", info, images)
    return [*paths, folder / "cascade.onnx"]
