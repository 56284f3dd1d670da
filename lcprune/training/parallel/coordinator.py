"""What the processes of a training do together: the one object through which the rest of training reaches them."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from lcprune.data.sources import Split
from lcprune.errors import LcpruneError, RecipeError
from lcprune.models import Network
from lcprune.recipe import Recipe
from lcprune.specs import METHODS, Parallel
from lcprune.training.checkpoint import TrainingState, restore
from lcprune.training.methods import Method, build_method
from lcprune.training.parallel.mesh import ProcessMesh, connected, is_launched
from lcprune.training.parallel.parts import Packed, gather, pack, unpack
from lcprune.training.parallel.placement import Placement, place
from lcprune.training.parallel.predicting import predict_by_stages
from lcprune.training.parallel.replicas import Replicas
from lcprune.training.predicting import predict_logits

TIMEOUT_S = 120.0
"""How long a rank waits for another one, unless the user says."""
VOTE_LAG = 2
"""Steps after which a vote is counted, so that no process waits for it; with a staleness, so many more."""
CPU = torch.device("cpu")
T = TypeVar("T")


@dataclass(frozen=True)
class ParallelOptions:
    """How several processes share a training, as the user asks for it; None: as the run was begun, or the default."""

    parallel: Parallel | None = None
    """What is divided; the default is the data."""
    staleness: int | None = None
    """By how many steps critics at a cut between processes learn late; the default is 0."""
    groups_per_rank: tuple[int, ...] = ()
    """Consecutive layer groups of each; empty: divided by the time that they take."""
    timeout_s: float | None = None
    """How long to wait for another process; the default is `TIMEOUT_S`."""


class Coordinator:
    """This process among those that train a network together; alone, it is rank 0 of 1 and answers for itself.

    All processes make the same calls in the same order.
    """

    def __init__(
        self, device: torch.device = CPU, mesh: ProcessMesh | None = None, options: ParallelOptions | None = None
    ) -> None:
        """`device` is that of this process; `mesh` is what connects it with the others, None where there are none."""
        options = options or ParallelOptions()
        self.device = device
        self.rank, self.world_size, self.stages = (mesh.rank, mesh.world_size, mesh.stages) if mesh else (0, 1, 1)
        self.placement: Placement | None = None
        """What this process holds, where there are several; `place` makes it."""
        self._mesh = mesh
        self._parallel = options.parallel or "data"
        self._staleness = options.staleness or 0
        self._groups_per_rank = options.groups_per_rank
        self._seed = 0
        self._votes: deque[tuple[dist.Work | None, Tensor]] = deque()

    def __str__(self) -> str:
        """How many processes there are and what they divide: bit-identity depends on it."""
        if self._mesh is None:
            return "1"
        return f"{self.world_size} ({self._parallel}, staleness {self._staleness})"

    @property
    def is_writer(self) -> bool:
        """Whether this process writes files and reports to the user."""
        return self.rank == 0

    @property
    def reads_images(self) -> bool:
        """Whether this process holds the first layers."""
        return self._mesh is None or self._mesh.stage == 0

    def all_gather(self, value: T) -> list[T]:
        """What every process gives, by rank."""
        everyone = [value] * self.world_size
        if self._mesh is not None:
            dist.all_gather_object(everyone, value)
        return everyone

    def broadcast(self, make: Callable[[], T]) -> T:
        """What the writer makes, known to all.

        Raises:
            LcpruneError: Whatever the writer ran into, in every process.
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
        """Refuses what so many processes cannot do.

        Raises:
            RecipeError: If the recipe asks for it.
        """
        if self._mesh is not None:
            refuse_unsupported(recipe, stages=self._mesh.stages, replicas=self._mesh.replicas)

    def rows(self, batch_size: int) -> slice | None:
        """This process' rows of every batch; None: all.

        Raises:
            RecipeError: If the replicas cannot share it evenly.
        """
        if self._mesh is None:
            return None
        return Replicas(self._mesh.replica_group, self.device).rows(batch_size)

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
        """The method by which this process trains, and the state of what it holds.

        Args:
            recipe: What is trained.
            whole: The state that all processes have; it is used up.
            image_shape: ``(C, H, W)``.
            make_whole: A fresh whole state, for checkpoints.
            iterations: Steps of the run.
            groups_before: Layer groups of every stage where the run was begun with as many; empty: it was not.

        Raises:
            LcpruneError: If the layers cannot be divided so.
        """
        if self._mesh is None:
            return build_method(recipe, whole.network, iterations), whole
        self._seed = recipe.train.seed
        self.placement = place(
            self._mesh,
            recipe,
            whole,
            image_shape,
            make_whole,
            iterations=iterations,
            groups_per_rank=self._groups_per_rank or groups_before,
            staleness=self._staleness,
        )
        return self.placement.method, self.placement.state

    def division(self) -> dict[str, Any]:
        """``parallel.json``: which rank holds which layer groups, from 1, and sends how many bytes in a step."""
        if self._mesh is None or self.placement is None:
            raise ValueError("one process divides nothing")
        stages = [rank // self._mesh.replicas for rank in range(self.world_size)]
        ranks = [
            {
                "rank": rank,
                "groups": [group + 1 for group in self.placement.held[stage]],
                "bytes_sent_per_step": self.placement.bytes_sent_per_step[stage],
            }
            for rank, stage in enumerate(stages)
        ]
        return {"ranks": ranks, "parallel": self._parallel, "staleness": self._staleness}

    def begin(self, step: int) -> None:
        """To be called before each step, numbered from 0.

        A checkpoint has the random state of one process, so that several begin every step anew; one goes on drawing.
        """
        if self._mesh is not None:
            drawn = np.random.SeedSequence((self._seed, step, self.rank)).generate_state(1, np.uint64)
            torch.manual_seed(int(drawn[0]))

    def should_stop(self, asked: bool) -> bool:
        """To be called once a step: whether all stop after this one, because one of them was asked to.

        Of several processes a vote is counted a few steps later, so that none waits for the slowest one.
        """
        if self._mesh is None:
            return asked
        vote = torch.tensor(int(asked))
        self._votes.append((dist.all_reduce(vote, dist.ReduceOp.MAX, async_op=True), vote))
        return len(self._votes) > VOTE_LAG + self._staleness and self._counted(self._mesh)

    def gather_losses(self, exits: Tensor, critics: Tensor) -> tuple[list[float], list[float]]:
        """Losses of all exits and of all critics, means over the replicas, from those that this process knows."""
        if self._mesh is None or self.placement is None:
            values: list[float] = torch.cat([exits, critics]).tolist()  # one wait for the device
            return values[: len(exits)], values[len(exits) :]
        own = [self.placement.replicas.mean(each).tolist() if len(each) else [] for each in (exits, critics)]
        everyone: list[list[list[float]]] = [own] * self.stages
        if self.stages > 1:
            dist.all_gather_object(everyone, own, group=self._mesh.layer_group)
        return list(chain(*(each[0] for each in everyone))), list(chain(*(each[1] for each in everyone)))

    def predict_logits(self, network: Network, split: Split, channels_last: bool) -> Tensor:
        """Logits of every exit for all images of `split`, ``(K, N, classes)``, on the CPU of every process."""
        if self._mesh is None or self.placement is None:
            return predict_logits(network, split, self.device, channels_last)
        replicas = self.placement.replicas
        if self.stages == 1:
            return replicas.predict_logits(network, split, self.device, channels_last)
        share = replicas.share_of(split)
        logits = predict_by_stages(self._mesh, self.placement.held, network, share, channels_last)
        return replicas.join_rows(logits, len(split))

    def drain(self, state: TrainingState) -> None:
        """Applies what has not been learnt yet from the steps done."""
        if self.placement is not None and self.placement.layers is not None:
            self.placement.layers.drain(state.optimizers)

    def gather_state(self, state: TrainingState) -> TrainingState | None:
        """All that is trained, for a checkpoint, where this process writes it; else None.

        The first replicas send what they hold to the writer.
        """
        if self._mesh is None or self.placement is None or self.stages == 1:
            return state if self.is_writer else None
        if self._mesh.replica:
            return None
        packed: list[Packed] | None = [{}] * self.stages if self.is_writer else None
        dist.gather_object(pack(state), packed, dst=0, group=self._mesh.layer_group)
        return None if packed is None else gather(state, packed, self.placement.make_whole)

    def restore(self, state: TrainingState, content: dict[str, Any]) -> None:
        """Puts a checkpoint's content into what this process holds; see `checkpoint.restore`."""
        if self.placement is None or self.placement.layers is None:
            restore(state, content)
            return
        self.placement.layers.forget()
        whole = self.placement.make_whole()
        restore(whole, content)
        unpack([pack(whole)], state)
        state.step, state.seconds, state.retries = whole.step, whole.seconds, whole.retries
        state.best_accuracy_pct = whole.best_accuracy_pct

    def watched(self) -> AbstractContextManager[None]:
        """Inside, an error because of a dead rank names it."""
        return nullcontext() if self._mesh is None else self._mesh.heartbeat.watched()

    def close(self) -> None:
        """Waits for what is under way; the last call of all."""
        while self._mesh is not None and self._votes:
            self._counted(self._mesh)
        if self.placement is not None and self.placement.layers is not None:
            self.placement.layers.close()

    def _counted(self, mesh: ProcessMesh) -> bool:
        work, vote = self._votes.popleft()
        if work is not None:
            work.wait(mesh.timeout)
        return bool(vote.item())


@contextmanager
def connect(options: ParallelOptions | None, groups: int, device: torch.device) -> Iterator[Coordinator]:
    """Inside, this process trains with those that torchrun started with it.

    Args:
        options: How they share the work; None: each is alone.
        groups: Layer groups of the network.
        device: What kind to train on.

    Raises:
        LcpruneError: If they do not find each other, or are too many.
    """
    if options is None or not is_launched():
        yield Coordinator(device)
        return
    with connected(options.parallel or "data", groups, device, options.timeout_s or TIMEOUT_S) as mesh:
        yield Coordinator(mesh.device, mesh, options)


def refuse_unsupported(recipe: Recipe, *, stages: int, replicas: int) -> None:
    """Refuses what cannot be divided over so many stages and replicas.

    Raises:
        RecipeError: If the recipe asks for it.
    """
    train = recipe.train
    able = " or ".join(name for name, spec in METHODS.items() if spec.layer_parallel)
    by_layers = {
        "train.method": (not METHODS[train.method].layer_parallel, able),
        "critics.distill": (recipe.critics.distill > 0, "0"),
        "train.average": (train.average > 0, "0"),
        "train.compile": (train.compile, "false"),
        "train.cuda_graph": (train.cuda_graph, "false"),
        "train.overlap": (train.overlap, "false"),
    }
    by_batches = {key: by_layers[key] for key in ("train.cuda_graph", "train.overlap")}
    either = {"logging.sample_losses": (recipe.logging.sample_losses > 0, "0")}
    for applies, keys, reason, other in (
        (stages > 1, by_layers, "layers on several processes", "divide the batches alone: --parallel data"),
        (
            replicas > 1,
            by_batches,
            "several replicas, whose gradients travel on CUDA streams of their own",
            "divide the layers alone: --parallel layers",
        ),
        (True, either, "several processes", "start one"),
    ):
        for key, (is_asked_for, instead) in keys.items() if applies else ():
            if is_asked_for:
                raise RecipeError(f"{key} does not go with {reason}", f"set {key}: {instead}, or {other}")
