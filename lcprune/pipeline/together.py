"""One training in several processes: how they begin, agree, and say who did what."""

import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from lcprune import runs
from lcprune.errors import LcpruneError, RunError
from lcprune.training.parallel import world as worlds
from lcprune.training.parallel.team import Division
from lcprune.training.parallel.world import Parallel, World


@dataclass(frozen=True)
class Together:
    """How several processes share a training, as the user says it."""

    parallel: Parallel = "data"
    staleness: int = 0
    """By how many steps critics at a cut between processes learn late."""
    groups_per_rank: tuple[int, ...] = ()
    """Consecutive layer groups of each; empty: divided by the time that they take."""
    timeout_s: float = worlds.TIMEOUT_S


@contextmanager
def meeting(together: Together | None, groups: int, device: torch.device) -> Iterator[World | None]:
    """Inside, this process trains with those that torchrun started; None where there is one alone.

    Raises:
        LcpruneError: If they do not find each other, or are too many.
    """
    if together is None or not worlds.is_launched():
        yield None
        return
    world = worlds.start(together.parallel, groups, device, together.timeout_s)
    try:
        with world.heartbeat.agreeing(), world.heartbeat.watched():
            yield world
    finally:
        worlds.stop(world)


def agreed_folder(world: World | None, make: Callable[[], Path]) -> Path:
    """A run folder that the writer makes, known to all.

    Raises:
        LcpruneError: Whatever the writer ran into, in every process.
    """
    if world is None:
        return make()
    said: list[str | LcpruneError] = [""]
    if world.rank == 0:
        try:
            said[0] = str(make())
        except LcpruneError as error:
            said[0] = error
    dist.broadcast_object_list(said, src=0)
    if isinstance(said[0], LcpruneError):
        raise said[0]
    return Path(said[0])


def begun_before_a_restart(out: Path | None, launches: Sequence[str]) -> Path | None:
    """The run that was begun before torchrun started these processes again; None if it had not come to that.

    Args:
        out: Where it would be; None: where ``runs/latest`` is.
        launches: What `launches_of` says of these processes.
    """
    folder = (out or runs.LATEST).resolve()
    if not launches or not (folder / runs.RECIPE).exists() or not (folder / runs.ENVIRONMENT).exists():
        return None
    before = runs.read_json(folder / runs.ENVIRONMENT).get("launches", [])
    return folder if set(before) & set(launches) else None


def launches_of(world: World | None) -> list[str]:
    """What tells the torchruns of these processes from all others, before and after they start processes again."""
    if world is None:
        return []
    own = "/".join((os.environ.get("TORCHELASTIC_RUN_ID", ""), platform.node(), str(os.getppid()), _parent_start()))
    launches = [""] * world.size
    dist.all_gather_object(launches, own)
    return sorted(set(launches))


def _parent_start() -> str:
    """When the parent was started, because numbers of processes come again; empty where the system does not tell."""
    stat = Path(f"/proc/{os.getppid()}/stat")
    return stat.read_text().rpartition(")")[2].split()[19] if stat.exists() else ""


def processes(world: World | None, together: Together | None) -> str:
    """How many they are, and what they divide: bit-equality depends on it."""
    if world is None or together is None:
        return "1"
    return f"{world.size} ({together.parallel}, staleness {together.staleness})"


def write_division(folder: Path, world: World, together: Together, division: Division) -> None:
    """Writes ``parallel.json``: who holds which layer groups, from 1, and sends how many bytes in a step."""
    ranks = [
        {
            "rank": rank,
            "groups": [group + 1 for group in division.held[rank // world.replicas]],
            "bytes_sent_per_step": division.bytes_sent_per_step[rank // world.replicas],
        }
        for rank in range(world.size)
    ]
    content = {"ranks": ranks, "parallel": together.parallel, "staleness": together.staleness}
    runs.write_json(folder / runs.PARALLEL, content)


def groups_before(folder: Path, world: World) -> tuple[int, ...]:
    """How many layer groups each stage had when the run was begun, with as many stages; else empty.

    Late critics are where stages end: a run that goes on must divide the layers as before, and not by the clock again.

    Raises:
        RunError: If ``parallel.json`` is damaged.
    """
    path = folder / runs.PARALLEL
    if not path.exists():
        return ()
    try:
        held = sorted({tuple(rank["groups"]) for rank in runs.read_json(path)["ranks"]})
    except (KeyError, TypeError) as error:
        raise _damaged(path, error) from None
    return tuple(map(len, held)) if len(held) == world.stages else ()


def as_before(folder: Path, said: Mapping[str, Any]) -> Together:
    """What the user says now, and of the rest what the run says of the processes that it was begun with.

    Args:
        folder: Of the run.
        said: Fields of `Together`.

    Raises:
        RunError: If ``parallel.json`` is damaged.
    """
    path = folder / runs.PARALLEL
    if not worlds.is_launched() or not path.exists():
        return Together(**said)
    content = runs.read_json(path)
    try:
        before = {"parallel": content["parallel"], "staleness": int(content["staleness"])}
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from None
    return Together(**(before | dict(said)))


def _damaged(path: Path, error: Exception) -> RunError:
    return RunError(f"{path} is damaged ({error})", f"remove it, and say --parallel and --staleness: {path}")
