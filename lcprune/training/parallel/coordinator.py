"""The coordinator: all communication between the processes of a training."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from lcprune.data.sources import Split
from lcprune.errors import LcpruneError
from lcprune.models import Network
from lcprune.recipe import Recipe
from lcprune.specs import Parallel
from lcprune.training.checkpoint import TrainingState, restore, restore_progress
from lcprune.training.methods import Method, build_method
from lcprune.training.methods.local_critic import LocalCritic
from lcprune.training.parallel.batch_norm import reduce_statistics
from lcprune.training.parallel.layers import LayerParallel
from lcprune.training.parallel.mesh import ProcessMesh, connected, is_launched
from lcprune.training.parallel.messages import TensorSpec
from lcprune.training.parallel.parts import Packed, gather, pack, pack_network, part_of, unpack
from lcprune.training.parallel.placement import bytes_sent, connect_stages, divide, hidden_specs, refuse_unsupported
from lcprune.training.parallel.replicas import Replicas
from lcprune.training.predicting import eval_batch, predict_logits

TIMEOUT_S = 120.0
"""Default of the time that a rank waits for another one."""
VOTE_LAG = 2
"""Steps after which a vote is read, so that no process waits for it; the staleness is added."""
CPU = torch.device("cpu")
T = TypeVar("T")


@dataclass(frozen=True)
class ParallelOptions:
    """How several processes share a training; None: as when the run began, else the default."""

    parallel: Parallel | None = None
    """What is divided; the default is ``data``."""
    staleness: int | None = None
    """Steps by which critics at a cut between processes learn late; the default is 0."""
    groups_per_rank: tuple[int, ...] = ()
    """Number of consecutive layer groups of each; empty: balanced by their measured times."""
    timeout_s: float | None = None
    """Of every wait for another process; the default is `TIMEOUT_S`."""


class Coordinator:
    """One of the processes that train a network together. A single process is rank 0 of 1, and communicates with none.

    All processes make the same calls in the same order.
    """

    def __init__(
        self, device: torch.device = CPU, mesh: ProcessMesh | None = None, options: ParallelOptions | None = None
    ) -> None:
        """`device` is that of this process; `mesh` has the other processes, None if there are none."""
        options = options or ParallelOptions()
        self.device = device
        self.rank, self.world_size, self.stages = (mesh.rank, mesh.world_size, mesh.stages) if mesh else (0, 1, 1)
        self.held: tuple[range, ...] = ()
        """Layer groups of every stage, from 0, once they are placed."""
        self.bytes_sent_per_step: tuple[int, ...] = ()
        """By each process of a stage: to its neighbours, and gradients to the other replicas."""
        self._mesh = mesh
        self._replicas = Replicas(mesh.replica_group) if mesh else None
        self._layers: LayerParallel | None = None
        self._make_whole: Callable[[], TrainingState] | None = None
        self._parallel = options.parallel or "data"
        self._staleness = options.staleness or 0
        self._groups_per_rank = options.groups_per_rank
        self._seed = 0
        self._votes: deque[tuple[dist.Work | None, Tensor]] = deque()

    def __str__(self) -> str:
        """The number of processes and what they divide: bit-identity depends on it."""
        if self._mesh is None:
            return "1"
        return f"{self.world_size} ({self._parallel}, staleness {self._staleness})"

    @property
    def is_writer(self) -> bool:
        """Whether this process writes files and reports to the user."""
        return self.rank == 0

    @property
    def reads_images(self) -> bool:
        """Whether this process has the first layers."""
        return self._mesh is None or self._mesh.stage == 0

    @property
    def _is_first_replica(self) -> bool:
        return self._mesh is None or self.rank % self._mesh.replicas == 0

    def all_gather(self, value: T) -> list[T]:
        """The values of all processes, by rank."""
        everyone = [value] * self.world_size
        if self._mesh is not None:
            dist.all_gather_object(everyone, value)
        return everyone

    def broadcast(self, make: Callable[[], T]) -> T:
        """The result of `make` in the writer, in all processes.

        Raises:
            LcpruneError: An error of the writer, in all processes.
        """
        if self._mesh is None:
            return make()
        made: list[T | LcpruneError | None] = [None]
        if self.is_writer:
            try:
                made[0] = make()
            except LcpruneError as error:
                made[0] = error
        dist.broadcast_object_list(made, src=0)
        if isinstance(made[0], LcpruneError):
            raise made[0]
        return made[0]  # type: ignore[return-value]

    def check(self, recipe: Recipe) -> None:
        """Refuses recipes that so many processes cannot train.

        Raises:
            RecipeError: If the recipe is one of them.
        """
        if self._mesh is not None:
            refuse_unsupported(recipe, stages=self._mesh.stages, replicas=self._mesh.replicas)

    def rows(self, batch_size: int) -> slice | None:
        """The rows of every batch for this process; None: all.

        Raises:
            RecipeError: If the replicas cannot share it evenly.
        """
        return self._replicas.rows(batch_size) if self._replicas else None

    def place(
        self,
        recipe: Recipe,
        whole: TrainingState,
        image_shape: Sequence[int],
        make_whole: Callable[[], TrainingState],
        *,
        iterations: int,
        groups_before: Sequence[int] = (),
    ) -> tuple[Method, TrainingState]:
        """The method and the state of this process.

        Args:
            recipe: What is trained.
            whole: The whole state, the same in all processes; it is modified.
            image_shape: ``(C, H, W)``.
            make_whole: A fresh whole state on the CPU, for checkpoints and evaluations.
            iterations: Steps of the run.
            groups_before: Number of layer groups of every stage, if the run began with as many stages; else empty.

        Raises:
            LcpruneError: If the layers cannot be divided in this way.
        """
        mesh, replicas, network = self._mesh, self._replicas, whole.network
        if mesh is None or replicas is None:
            return build_method(recipe, network, iterations), whole
        self._seed, self._make_whole = recipe.train.seed, make_whole
        samples = recipe.data.batch_size // replicas.size
        self.held = divide(mesh, network, (samples, *image_shape), self._groups_per_rank or groups_before)
        mesh.heartbeat.names = [_name(rank, self.held[rank // mesh.replicas]) for rank in range(mesh.world_size)]
        if replicas.size > 1:
            reduce_statistics(network, mesh.replica_group)  # from here on, all replicas must run it together
        method, state = build_method(recipe, network, iterations), whole
        if mesh.stages == 1:
            self.bytes_sent_per_step = bytes_sent(network, self.held, mesh.replicas, [], None)
        elif not isinstance(method, LocalCritic):
            raise ValueError(f"the layers of {recipe.train.method} cannot be divided")
        else:
            hidden = hidden_specs(recipe, method, image_shape, samples, mesh.device)
            losses = TensorSpec((samples,)) if method.exits.loss.waits else None
            self.bytes_sent_per_step = bytes_sent(network, self.held, mesh.replicas, hidden, losses)
            links = connect_stages(mesh, self.held, hidden, losses, depth=self._staleness + 1)
            own = self.held[mesh.stage]
            method = self._layers = LayerParallel(
                method, own, links, staleness=self._staleness, on_gradient=replicas.add_gradient
            )
            state = part_of(whole, recipe, own)
        if replicas.size > 1:
            replicas.broadcast(state.network.state_dict().values())
            replicas.average_gradients(state.optimizers)
        return method, state

    def division(self) -> dict[str, Any]:
        """``parallel.json``: for each rank its layer groups, from 1, and the bytes that it sends in a step."""
        stages = [rank * self.stages // self.world_size for rank in range(self.world_size)]
        ranks = [
            {
                "rank": rank,
                "groups": [group + 1 for group in self.held[stage]],
                "bytes_sent_per_step": self.bytes_sent_per_step[stage],
            }
            for rank, stage in enumerate(stages)
        ]
        return {"ranks": ranks, "parallel": self._parallel, "staleness": self._staleness}

    def begin(self, step: int) -> None:
        """To be called before each step, numbered from 0.

        A checkpoint has the random state of one process, so several processes seed torch at every step.
        """
        if self._mesh is not None:
            drawn = np.random.SeedSequence((self._seed, step, self.rank)).generate_state(1, np.uint64)
            torch.manual_seed(int(drawn[0]))

    def should_stop(self, asked: bool) -> bool:
        """To be called once a step: whether all processes stop after this one, because one of them was asked to.

        With several processes a vote is read a few steps later, so that none waits for the slowest one.
        """
        if self._mesh is None:
            return asked
        vote = torch.tensor(int(asked))
        self._votes.append((dist.all_reduce(vote, dist.ReduceOp.MAX, async_op=True), vote))
        return len(self._votes) > VOTE_LAG + self._staleness and self._voted(self._mesh)

    def gather_losses(self, exits: Tensor, critics: Tensor) -> tuple[list[float], list[float]]:
        """Losses of all exits and of all critics, means over the replicas, from those of each process."""
        if self._mesh is None or self._replicas is None:
            values: list[float] = torch.cat([exits, critics]).tolist()  # one synchronisation with the device
            return values[: len(exits)], values[len(exits) :]
        own: list[list[float]] = [self._replicas.mean(each).tolist() if len(each) else [] for each in (exits, critics)]
        everyone = self.all_gather(own)[:: self._mesh.replicas]
        return list(chain(*(each[0] for each in everyone))), list(chain(*(each[1] for each in everyone)))

    def predict_logits(self, network: Network, split: Split, channels_last: bool) -> Tensor:
        """Logits of every exit for all images of `split`, ``(K, N, classes)``, on the CPU of every process.

        Each process runs the whole network on a share of the images.
        """
        if self._mesh is None:
            return predict_logits(network, split, self.device, channels_last)
        if self._layers is not None and self._make_whole is not None:
            parts = self.all_gather(pack_network(network) if self._is_first_replica else None)
            network = self._make_whole().network
            for part in filter(None, parts):
                network.load_state_dict(part, strict=False)
            network.to(self.device)
        own = split.subset(self._share(self.rank, split))
        logits = self.all_gather(predict_logits(network, own, self.device, channels_last) if len(own) else None)
        by_replica = [logits[replica :: self._mesh.replicas] for replica in range(self._mesh.replicas)]
        return torch.cat([each for each in chain(*by_replica) if each is not None], dim=1)

    def _share(self, rank: int, split: Split) -> NDArray[np.int64]:
        """The images of `split` for a process: an equal number of whole batches of its replica's share."""
        stage, replica = divmod(rank, self.world_size // self.stages)
        first, last = (len(split) * n * self.stages // self.world_size for n in (replica, replica + 1))
        size = eval_batch(split)
        batches = -(-(last - first) // size)
        start, end = (min(last, first + size * (batches * n // self.stages)) for n in (stage, stage + 1))
        return np.arange(start, end)

    def drain(self, state: TrainingState) -> None:
        """Makes late critics learn from all steps done."""
        if self._layers is not None:
            self._layers.drain(state.optimizers)

    def gather_state(self, state: TrainingState) -> TrainingState | None:
        """The whole state for a checkpoint, in the writer; None in other processes."""
        if self._layers is None or self._make_whole is None:
            return state if self.is_writer else None
        packed: list[Packed | None] | None = [None] * self.world_size if self.is_writer else None
        dist.gather_object(pack(state) if self._is_first_replica else None, packed)
        return None if packed is None else gather(state, filter(None, packed), self._make_whole)

    def restore(self, state: TrainingState, content: dict[str, Any]) -> None:
        """Loads a checkpoint's content into the state of this process; see `checkpoint.restore`."""
        if self._layers is None or self._make_whole is None:
            restore(state, content)
            return
        self._layers.forget()
        whole = self._make_whole()
        restore(whole, content)
        unpack([pack(whole)], state)
        restore_progress(state, content)

    def close(self) -> None:
        """Waits for all messages; the last call."""
        while self._mesh is not None and self._votes:
            self._voted(self._mesh)
        if self._layers is not None:
            self._layers.close()

    def _voted(self, mesh: ProcessMesh) -> bool:
        work, vote = self._votes.popleft()
        if work is not None:
            work.wait(mesh.timeout)
        return bool(vote.item())


@contextmanager
def connect(options: ParallelOptions | None, groups: int, device: torch.device) -> Iterator[Coordinator]:
    """Connects this process with the others that torchrun started.

    Args:
        options: How they share the work; None: each trains alone.
        groups: Number of layer groups of the network.
        device: Kind of device.

    Raises:
        LcpruneError: If they cannot connect, or are too many.
    """
    if options is None or not is_launched():
        yield Coordinator(device)
        return
    with connected(options.parallel or "data", groups, device, options.timeout_s or TIMEOUT_S) as mesh:
        yield Coordinator(mesh.device, mesh, options)


def _name(rank: int, groups: range) -> str:
    if len(groups) == 1:
        return f"rank {rank} (layer group {groups.start + 1})"
    return f"rank {rank} (layer groups {groups.start + 1} to {groups.stop})"
