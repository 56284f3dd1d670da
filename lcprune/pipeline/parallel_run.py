"""How several ranks continue a run: by ``parallel.json``, and after torchrun has restarted them."""

import os
import platform
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lcprune import runs
from lcprune.errors import RunError
from lcprune.specs import Parallel
from lcprune.training.parallel import Coordinator, ParallelOptions
from lcprune.training.parallel.mesh import is_launched


def begun_before_a_restart(out: Path | None, launches: Sequence[str]) -> Path | None:
    """The run that these ranks had begun before torchrun restarted them; None if there is none.

    Args:
        out: Where it would be; None: where ``runs/latest`` is.
        launches: `launches_of` these processes.
    """
    folder = (out or runs.LATEST).resolve()
    if not launches or not (folder / runs.RECIPE).exists() or not (folder / runs.ENVIRONMENT).exists():
        return None
    before = runs.read_json(folder / runs.ENVIRONMENT).get("launches", [])
    return folder if set(before) & set(launches) else None


def launches_of(coordinator: Coordinator) -> list[str]:
    """Identifies the torchruns that started these ranks, across restarts; empty for a single process."""
    if coordinator.world_size == 1:
        return []
    own = "/".join((os.environ.get("TORCHELASTIC_RUN_ID", ""), platform.node(), str(os.getppid()), _parent_start()))
    return sorted(set(coordinator.all_gather(own)))


def _parent_start() -> str:
    """Start time of the parent, because process ids are reused; empty where the system does not tell."""
    stat = Path(f"/proc/{os.getppid()}/stat")
    return stat.read_text().rpartition(")")[2].split()[19] if stat.exists() else ""


def groups_before(folder: Path, stages: int) -> tuple[int, ...]:
    """How many layer groups each stage had when the run was begun, with as many stages; else empty.

    Critics between stages may lag behind: a resumed run must divide the layers as before, and not by new timings.

    Raises:
        RunError: If ``parallel.json`` is damaged.
    """
    before = _division_before(folder) if stages > 1 else None
    return tuple(map(len, before[2])) if before and len(before[2]) == stages else ()


def options_before(folder: Path, options: ParallelOptions) -> ParallelOptions:
    """`options`; what they leave out is as it was when the run was begun.

    Raises:
        RunError: If ``parallel.json`` is damaged.
    """
    before = _division_before(folder) if is_launched() else None
    if before is None:
        return options
    parallel, staleness, _ = before
    return replace(
        options,
        parallel=options.parallel or parallel,
        staleness=staleness if options.staleness is None else options.staleness,
    )


def _division_before(folder: Path) -> tuple[Parallel, int, list[tuple[int, ...]]] | None:
    """``--parallel``, ``--staleness`` and the groups of every stage of a begun run; None if one process began it."""
    path = folder / runs.PARALLEL
    if not path.exists():
        return None
    content = runs.read_json(path)
    try:
        groups = sorted({tuple(rank["groups"]) for rank in content["ranks"]})
        return content["parallel"], int(content["staleness"]), groups
    except (KeyError, TypeError, ValueError) as error:
        problem = f"{path} is damaged ({error})"
        raise RunError(problem, f"remove it, and give --parallel and --staleness: {path}") from None
