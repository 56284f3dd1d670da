"""How several processes go on with a run: by ``parallel.json``, and after torchrun started them again."""

import os
import platform
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lcprune import runs
from lcprune.errors import RunError
from lcprune.training.parallel import Coordinator, ParallelOptions
from lcprune.training.parallel.mesh import is_launched


def begun_before_a_restart(out: Path | None, launches: Sequence[str]) -> Path | None:
    """The run that was begun before torchrun started these processes again; None if it had not come to that.

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
    """Identifies the torchruns of these processes, before and after they start processes again.

    Empty for one process alone.
    """
    if coordinator.world_size == 1:
        return []
    own = "/".join((os.environ.get("TORCHELASTIC_RUN_ID", ""), platform.node(), str(os.getppid()), _parent_start()))
    return sorted(set(coordinator.all_gather(own)))


def _parent_start() -> str:
    """When the parent was started, because numbers of processes come again; empty where the system does not tell."""
    stat = Path(f"/proc/{os.getppid()}/stat")
    return stat.read_text().rpartition(")")[2].split()[19] if stat.exists() else ""


def groups_before(folder: Path, stages: int) -> tuple[int, ...]:
    """How many layer groups each stage had when the run was begun, with as many stages; else empty.

    Late critics are where stages end: a run that goes on must divide the layers as before, and not by the clock again.

    Raises:
        RunError: If ``parallel.json`` is damaged.
    """
    path = folder / runs.PARALLEL
    if stages == 1 or not path.exists():
        return ()
    try:
        held = sorted({tuple(rank["groups"]) for rank in runs.read_json(path)["ranks"]})
    except (KeyError, TypeError) as error:
        raise _damaged(path, error) from None
    return tuple(map(len, held)) if len(held) == stages else ()


def options_before(folder: Path, options: ParallelOptions) -> ParallelOptions:
    """`options`, and what they leave out as it was when the run was begun.

    Raises:
        RunError: If ``parallel.json`` is damaged.
    """
    path = folder / runs.PARALLEL
    if not is_launched() or not path.exists():
        return options
    content = runs.read_json(path)
    try:
        parallel, staleness = content["parallel"], int(content["staleness"])
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from None
    return replace(
        options,
        parallel=options.parallel or parallel,
        staleness=staleness if options.staleness is None else options.staleness,
    )


def _damaged(path: Path, error: Exception) -> RunError:
    return RunError(f"{path} is damaged ({error})", f"remove it, and give --parallel and --staleness: {path}")
