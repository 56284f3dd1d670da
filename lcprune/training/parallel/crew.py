"""The processes that train together, as the training loop asks them (`Ranks`)."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import chain
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from lcprune.data.loaders import eval_batches
from lcprune.data.sources import Split
from lcprune.models import Network
from lcprune.training.checkpoint import TrainingState, restore
from lcprune.training.freezing import modes_of, restore_modes
from lcprune.training.parallel.layers import LayerParallel
from lcprune.training.parallel.parts import Packed, gather, pack, unpack
from lcprune.training.parallel.replicas import Replicas
from lcprune.training.parallel.world import World
from lcprune.training.predicting import eval_batch

VOTE_LAG = 2
"""Steps after which a vote is counted, so that nobody waits for it; with a staleness, so many more."""


class Crew:
    """This process among those that train together; a `Ranks`."""

    def __init__(
        self,
        world: World,
        held: tuple[range, ...],
        replicas: Replicas,
        make_whole: Callable[[], TrainingState],
        *,
        seed: int,
        staleness: int = 0,
    ) -> None:
        """How the processes belong together.

        Args:
            world: All of them.
            held: Layer groups of every stage.
            replicas: Those that hold the same layers as this one.
            make_whole: A fresh state of the whole network, for a checkpoint.
            seed: Of the run.
            staleness: Of layer parallel training.
        """
        self._world = world
        self._held = held
        self._replicas = replicas
        self._make_whole = make_whole
        self._seed = seed
        self._lag = VOTE_LAG + staleness
        self._votes: deque[tuple[dist.Work | None, Tensor]] = deque()
        self.method: LayerParallel | None = None
        """What trains this process' layers; None where it holds all of them."""

    @property
    def is_writer(self) -> bool:
        """See `Ranks`."""
        return self._world.rank == 0

    def begin(self, step: int) -> None:
        """See `Ranks`; a checkpoint has the random state of one process, so that all begin every step anew."""
        drawn = np.random.SeedSequence((self._seed, step, self._world.rank)).generate_state(1, np.uint64)
        torch.manual_seed(int(drawn[0]))

    def stops(self, asked: bool) -> bool:
        """See `Ranks`; a vote is counted a few steps later, so that no process waits for the slowest one."""
        vote = torch.tensor(int(asked))
        self._votes.append((dist.all_reduce(vote, dist.ReduceOp.MAX, async_op=True), vote))
        if len(self._votes) <= self._lag:
            return False
        return self._counted()

    def whole_losses(self, exits: Tensor, critics: Tensor) -> tuple[list[float], list[float]]:
        """See `Ranks`: means over the replicas, of all layers."""
        own = [self._replicas.mean(values).tolist() if len(values) else [] for values in (exits, critics)]
        everyone: list[list[list[float]]] = [own] * self._world.stages
        if self._world.stages > 1:
            dist.all_gather_object(everyone, own, group=self._world.layer_group)
        return list(chain(*(each[0] for each in everyone))), list(chain(*(each[1] for each in everyone)))

    def first_place(self, place: str | None) -> str | None:
        """See `Ranks`."""
        places: list[str | None] = [None] * self._world.size
        dist.all_gather_object(places, place)
        return next((each for each in places if each is not None), None)

    def predict_logits(self, network: Network, split: Split, device: torch.device, channels_last: bool) -> Tensor:
        """See `Ranks`: replicas share the images, and every stage says what its exits say."""
        if self._world.stages == 1:
            return self._replicas.predict_logits(network, split, device, channels_last)
        share = self._replicas.share_of(split)
        return self._replicas.join_rows(self._through_the_stages(network, share, channels_last), len(split))

    def settle(self, state: TrainingState) -> None:
        """See `Ranks`."""
        if self.method is not None:
            self.method.drain(state.optimizers)

    def whole(self, state: TrainingState) -> TrainingState | None:
        """See `Ranks`: the first replicas send what they hold to the writer."""
        if self._world.stages == 1:
            return state if self.is_writer else None
        if self._world.replica:
            return None
        packed: list[Packed] | None = [{}] * self._world.stages if self.is_writer else None
        dist.gather_object(pack(state), packed, dst=0, group=self._world.layer_group)
        return None if packed is None else gather(state, packed, self._make_whole)

    def restore(self, state: TrainingState, content: dict[str, Any]) -> None:
        """See `Ranks`."""
        if self._world.stages == 1:
            restore(state, content)
            return
        if self.method is not None:
            self.method.forget()
        whole = self._make_whole()
        restore(whole, content)
        unpack([pack(whole)], state)
        state.step, state.seconds, state.retries = whole.step, whole.seconds, whole.retries
        state.best_accuracy_pct = whole.best_accuracy_pct

    def watched(self) -> AbstractContextManager[None]:
        """See `Ranks`."""
        return self._world.heartbeat.watched()

    def together(self, names: Sequence[str]) -> tuple[str, ...]:
        """See `Ranks`."""
        everyone: list[Sequence[str]] = [()] * self._world.size
        dist.all_gather_object(everyone, names)
        return tuple(sorted(set(chain(*everyone))))

    def close(self) -> None:
        """Waits for what is under way."""
        while self._votes:
            self._counted()
        if self.method is not None:
            self.method.close()

    def _counted(self) -> bool:
        work, vote = self._votes.popleft()
        if work is not None:
            work.wait(self._world.timeout)
        return bool(vote.item())

    def _through_the_stages(self, network: Network, split: Split, channels_last: bool) -> Tensor:
        """Logits of every exit of the images of this replica, ``(K, N, classes)``."""
        modes = modes_of(network)
        network.eval()
        with torch.inference_mode():
            own = self._own_logits(network, split, channels_last)  # (exits of this stage, N, classes)
        restore_modes(modes)
        everyone = []
        for stage, held in enumerate(self._held):
            logits = own if stage == self._world.stage else own.new_empty((len(held), *own.shape[1:]))
            dist.broadcast(logits, self._world.rank_of(stage), group=self._world.layer_group)
            everyone.append(logits)
        return torch.cat(everyone).cpu()

    def _own_logits(self, network: Network, split: Split, channels_last: bool) -> Tensor:
        world = self._world
        batches = []
        for hidden in self._inputs(network, split, channels_last):
            logits = []
            for index in self._held[world.stage]:
                hidden = network.groups[index](hidden)
                logits.append(network.critics[index](hidden) if index < len(network.critics) else hidden)
            if world.stage < world.stages - 1:
                self._send(hidden)
            batches.append(torch.stack(logits).float())
        return torch.cat(batches, dim=1)

    def _inputs(self, network: Network, split: Split, channels_last: bool) -> Iterator[Tensor]:
        """What this process' first group reads, batch by batch."""
        size = eval_batch(split)
        if self._world.stage:
            yield from (self._received() for _ in range(0, len(split), size))
        else:
            for images, _ in eval_batches(split, size, self._world.device, channels_last):
                yield network.normalize(images)

    def _send(self, hidden: Tensor) -> None:
        """To the next stage: the shape first, because the last batch is smaller."""
        to = self._world.rank_of(self._world.stage + 1)
        shape = torch.tensor([hidden.dim(), *hidden.shape], device=hidden.device)
        for part in (shape[:1], shape[1:], hidden.float().contiguous()):
            dist.send(part, to, group=self._world.layer_group)

    def _received(self) -> Tensor:
        origin, device, group = self._world.rank_of(self._world.stage - 1), self._world.device, self._world.layer_group
        dims = torch.zeros(1, dtype=torch.int64, device=device)
        dist.recv(dims, origin, group=group)
        shape = torch.zeros(int(dims), dtype=torch.int64, device=device)
        dist.recv(shape, origin, group=group)
        hidden = torch.empty(shape.tolist(), device=device)
        dist.recv(hidden, origin, group=group)
        return hidden
