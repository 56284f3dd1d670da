"""Cost of the sub-models of a run and of its cascade: ``profile.json``."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lcprune import runs
from lcprune.analysis.cost import CascadeCost, ExitCost, NetworkCost
from lcprune.analysis.counting import count_cost, count_params
from lcprune.errors import RunError
from lcprune.models import Network
from lcprune.pipeline import stored
from lcprune.recipe import Recipe


def write_counted(folder: Path, network: Network, image_shape: tuple[int, int, int]) -> None:
    """Counts the cost of a run's network, unless ``profile.json`` is of these weights; nothing is exported or timed.

    Raises:
        ProfileError: If the network's cost cannot be counted.
    """
    if _is_of_these_weights(folder):
        return
    cost = count_cost(network, image_shape)
    write_costs(folder, cost, cost_rows(network, cost))


def costs_of(folder: Path, recipe: Recipe) -> NetworkCost:
    """The costs of a run; counted now if they were not, or if they are of other weights.

    Raises:
        RunError: If the run is not finished, or ``profile.json`` is damaged.
    """
    if not _is_of_these_weights(folder):
        network, facts = stored.load_network(folder, recipe)
        write_counted(folder, network, facts.image_shape)
    content = runs.read_json(runs.require(folder, runs.PROFILE, f"lcprune profile {folder}"))
    try:
        rows = [{key: value for key, value in row.items() if key != "macs_ratio"} for row in content["exits"]]
        starts = tuple(content.get("starts", (0,)))  # 0.1 knew one input size
        cascade = CascadeCost(tuple(content["group_macs"]), tuple(content["critic_macs"]), starts)
        return NetworkCost(tuple(ExitCost(**row) for row in rows), cascade)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{folder / runs.PROFILE} is damaged ({error})", f"run this: lcprune profile {folder}") from None


def cost_rows(network: Network, cost: NetworkCost) -> list[ExitCost]:
    """All sub-models, and last the cascade with no early exit taken."""
    params = count_params(network.groups) + count_params(network.critics)  # without what only training needs
    return [*cost.exits, ExitCost("cascade", len(network.critics), cost.cascade.exit_macs()[-1], params)]


def write_costs(folder: Path, cost: NetworkCost, rows: Sequence[ExitCost]) -> dict[str, Any]:
    """Writes `cost_rows` as ``profile.json``, and returns what it holds."""
    *exits, cascade = (asdict(row) | {"macs_ratio": row.macs / cost.exits[-1].macs} for row in rows)
    content = {"exits": exits, "cascade": cascade, "cascade_macs": cascade["macs"], **asdict(cost.cascade)}
    runs.write_json(folder / runs.PROFILE, content)
    runs.record(folder, runs.PROFILE, made_from=[runs.WEIGHTS])
    return content


def _is_of_these_weights(folder: Path) -> bool:
    return (folder / runs.PROFILE).exists() and not runs.changed_sources(folder, runs.PROFILE)
