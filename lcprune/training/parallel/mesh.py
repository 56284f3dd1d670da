"""The processes that train one network together, as torchrun started them.

They form a mesh of stages x replicas: a stage holds one or more consecutive layer groups, its replicas share every
batch. Data parallel is one stage, layer parallel one replica. Rank ``stage * replicas + replica``: the ranks that
exchange gradients are neighbours, and so on one machine where that is possible.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from lcprune.errors import PeerError, SetupError
from lcprune.specs import Parallel
from lcprune.training.parallel.heartbeat import Heartbeat

LAYERS, REPLICAS = "layers", "replicas"
"""Dimensions of the mesh."""


@dataclass(frozen=True)
class ProcessMesh:
    """This process among those that train together."""

    rank: int
    stages: int
    replicas: int
    device: torch.device
    mesh: DeviceMesh
    heartbeat: Heartbeat
    """Names a dead rank."""
    timeout: timedelta
    """How long it waits for another process."""

    @property
    def world_size(self) -> int:
        """Processes in all."""
        return self.stages * self.replicas

    @property
    def stage(self) -> int:
        """Which part of the layers this process holds, from 0."""
        return self.rank // self.replicas

    @property
    def replica(self) -> int:
        """Which share of every batch is its, from 0."""
        return self.rank % self.replicas

    @property
    def replica_group(self) -> ProcessGroup:
        """The processes that hold the same layers."""
        return self.mesh.get_group(REPLICAS)

    @property
    def layer_group(self) -> ProcessGroup:
        """The processes that have the same share of a batch, shallow layers first."""
        return self.mesh.get_group(LAYERS)

    def rank_of(self, stage: int) -> int:
        """The rank that holds another stage of the same replica."""
        return stage * self.replicas + self.replica


def is_launched() -> bool:
    """Whether torchrun, or another launcher like it, started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


@contextmanager
def connected(parallel: Parallel, groups: int, device: torch.device, timeout_s: float) -> Iterator[ProcessMesh]:
    """Inside, this process is connected with the others, and an error that ends all is reported by one of them.

    Args:
        parallel: What is divided: batches, layers, or both.
        groups: Layer groups of the network.
        device: What kind to train on; of CUDA devices each process on a machine takes its own.
        timeout_s: How long to wait for another process, at any time.

    Raises:
        SetupError: If there are more processes than can be used.
        PeerError: If the others do not come, or one of them is gone.
    """
    world_size, timeout = int(os.environ["WORLD_SIZE"]), timedelta(seconds=timeout_s)
    stages = _stages(parallel, world_size, groups)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        store, rank, _ = next(rendezvous("env://", timeout=timeout))
        # Torchrun keeps its store when it starts processes again, with the addresses of those before in it.
        store = PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
        mesh = init_device_mesh(device.type, (stages, world_size // stages), mesh_dim_names=(LAYERS, REPLICAS))
        for group in mesh.get_all_groups():
            _set_timeout(group, timeout)
    except RuntimeError as error:
        raise PeerError(
            f"the {world_size} processes did not find each other: {str(error).splitlines()[0]}",
            "look at the address that torchrun was given, and at the network between the machines",
        ) from None
    heartbeat = Heartbeat(store, rank, world_size)
    heartbeat.start()
    try:
        with heartbeat.agreeing(), heartbeat.watched():
            yield ProcessMesh(rank, stages, world_size // stages, device, mesh, heartbeat, timeout)
    finally:
        heartbeat.stop()
        dist.destroy_process_group()


def _set_timeout(group: ProcessGroup, timeout: timedelta) -> None:
    """Says how long operations of a group wait; a mesh gives its groups torch's half an hour."""
    if hasattr(dist, "set_timeout"):
        dist.set_timeout(timeout, group)
    else:  # before torch 2.15
        dist.distributed_c10d._set_pg_timeout(timeout, group)


def _stages(parallel: Parallel, world_size: int, groups: int) -> int:
    """In how many parts the layers are divided."""
    if parallel == "data":
        return 1
    if parallel == "layers":
        if world_size > groups:
            raise SetupError(
                f"{world_size} processes cannot share {groups} layer groups",
                f"start {groups} or fewer, or divide batches as well: --parallel both",
            )
        return world_size
    stages = max(n for n in range(1, min(groups, max(1, world_size // 2)) + 1) if world_size % n == 0)
    if stages == 1:
        raise SetupError(
            f"{world_size} processes are no grid of layers and replicas for {groups} layer groups",
            "start 4, 6 or 8, or divide only one of both: --parallel data, --parallel layers",
        )
    return stages
