"""What one of several processes holds of a network, how it trains that, and what it sends to whom."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from lcprune.models import Network
from lcprune.models.network import eval_mode
from lcprune.recipe import Recipe
from lcprune.training import precision
from lcprune.training.checkpoint import TrainingState
from lcprune.training.methods import Method, as_it_is, build_method
from lcprune.training.methods.critic_loss import critic_loss
from lcprune.training.methods.local_exits import stages_of
from lcprune.training.parallel.balance import balanced, given, measured_costs_s
from lcprune.training.parallel.batch_norm import reduce_statistics
from lcprune.training.parallel.layers import LayerParallel, Links
from lcprune.training.parallel.mesh import ProcessMesh
from lcprune.training.parallel.messages import Neighbour, Receiver, Sender, TensorSpec
from lcprune.training.parallel.parts import part_of
from lcprune.training.parallel.replicas import Replicas


@dataclass(frozen=True)
class Placement:
    """How layer groups and batches are divided, and the part of this process."""

    held: tuple[range, ...]
    """Layer groups of every stage, from 0."""
    bytes_sent_per_step: tuple[int, ...]
    """By every stage, each of its replicas: to its neighbours, and gradients to the other replicas."""
    replicas: Replicas
    """The processes that hold the same layers as this one."""
    method: Method
    state: TrainingState
    """Of what this process holds."""
    make_whole: Callable[[], TrainingState]
    """A fresh state of the whole network, for a checkpoint."""

    @property
    def layers(self) -> LayerParallel | None:
        """The method, where this process holds some of the layers."""
        return self.method if isinstance(self.method, LayerParallel) else None


def place(
    mesh: ProcessMesh,
    recipe: Recipe,
    whole: TrainingState,
    image_shape: Sequence[int],
    make_whole: Callable[[], TrainingState],
    *,
    iterations: int,
    groups_per_rank: Sequence[int] = (),
    staleness: int = 0,
) -> Placement:
    """Takes this process' part out of the whole, and connects it with the others.

    Args:
        mesh: All processes.
        recipe: What they train.
        whole: The state that all of them have; it is used up.
        image_shape: ``(C, H, W)``.
        make_whole: A fresh whole state, for checkpoints.
        iterations: Steps of the run.
        groups_per_rank: Consecutive layer groups of every stage; empty: divided by the time that they take.
        staleness: By how many steps critics at a cut learn late.

    Raises:
        LcpruneError: If the recipe or `groups_per_rank` asks for what cannot be.
    """
    network = whole.network
    replicas = Replicas(mesh.replica_group, mesh.device)
    shared = replicas.size > 1
    rows = replicas.rows(recipe.data.batch_size)
    samples = rows.stop - rows.start
    held = _divided(mesh, network, (samples, *image_shape), groups_per_rank)
    mesh.heartbeat.names = [_name(rank, held[rank // mesh.replicas]) for rank in range(mesh.world_size)]
    if shared:
        reduce_statistics(network, mesh.replica_group)  # from here on, no process runs it alone
    wrap = replicas.wrap if shared else as_it_is
    if mesh.stages == 1:
        bytes_sent = _bytes_sent(mesh, network, held, [], None)
        method, state = build_method(recipe, network, iterations, wrap=wrap), whole
    else:
        loss = critic_loss(recipe.critics)
        hidden = _hidden_specs(recipe, network, image_shape, samples, mesh.device)
        losses = TensorSpec((samples,)) if loss.waits else None
        bytes_sent = _bytes_sent(mesh, network, held, hidden, losses)
        method = LayerParallel(
            network,
            held[mesh.stage],
            _links(mesh, held, hidden, losses, depth=staleness + 1),
            loss,
            staleness=staleness,
            update_every=recipe.critics.update_every,
            label_smoothing=recipe.train.label_smoothing,
            lean=recipe.train.memory == "lean",
            wrap=wrap,
            mean=replicas.mean if shared else None,
        )
        state = part_of(whole, recipe, held[mesh.stage])
    replicas.hold(state.optimizers)
    return Placement(held, bytes_sent, replicas, method, state, make_whole)


def _name(rank: int, groups: range) -> str:
    if len(groups) == 1:
        return f"rank {rank} (layer group {groups.start + 1})"
    return f"rank {rank} (layer groups {groups.start + 1} to {groups.stop})"


def _divided(
    mesh: ProcessMesh, network: Network, batch_shape: Sequence[int], groups_per_rank: Sequence[int]
) -> tuple[range, ...]:
    """Layer groups of every stage; by the clock of the first rank, which all of them take."""
    if groups_per_rank:
        return given(groups_per_rank, len(network.groups), mesh.stages)
    costs = [0.0] * len(network.groups)
    if mesh.stages == 1 or mesh.stages == len(network.groups):
        return balanced(costs, mesh.stages)
    if mesh.rank == 0:
        costs = measured_costs_s(network, torch.rand(*batch_shape, device=mesh.device))
    dist.broadcast_object_list(costs, src=0)
    return balanced(costs, mesh.stages)


def _hidden_specs(
    recipe: Recipe, network: Network, image_shape: Sequence[int], samples: int, device: torch.device
) -> list[TensorSpec]:
    """Of what goes forward behind every group but the last."""
    stages, _ = stages_of(network, two_passes=False)
    bf16 = precision.resolve(recipe.train.precision, device) == "bf16"
    specs = []
    with eval_mode(network), torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        hidden = network.normalize(torch.zeros(1, *image_shape, device=device))
        for stage in stages:
            hidden = stage.next_pool(stage.plain_group(hidden))
            channels_last = recipe.train.channels_last and hidden.dim() == 4
            specs.append(TensorSpec((samples, *hidden.shape[1:]), hidden.dtype, channels_last))
    return specs


def _links(
    mesh: ProcessMesh,
    held: tuple[range, ...],
    hidden: Sequence[TensorSpec],
    losses: TensorSpec | None,
    depth: int,
) -> Links:
    """Connections with the stages before and behind; `losses` is None where critics do not wait for them."""
    links = Links()
    own = held[mesh.stage]
    for stage in range(len(held) - 1):
        for replica in range(mesh.replicas):  # every process must make every group
            pair = [stage * mesh.replicas + replica, (stage + 1) * mesh.replicas + replica]
            forward, back = (dist.new_group(pair, timeout=mesh.timeout) for _ in range(2))
            if mesh.rank not in pair or isinstance(forward, int) or isinstance(back, int):
                continue
            other = pair[1 - pair.index(mesh.rank)]
            name = mesh.heartbeat.names[other]
            ahead, behind = Neighbour(other, name, forward), Neighbour(other, name, back)
            if mesh.rank == pair[0]:
                links.hidden_out = Sender(mesh, ahead, hidden[own.stop - 1], depth)
                links.losses_in = Receiver(mesh, behind, losses, depth) if losses else None
            else:
                links.hidden_in = Receiver(mesh, ahead, hidden[own.start - 1], depth)
                links.losses_out = Sender(mesh, behind, losses, depth) if losses else None
    return links


def _bytes_sent(
    mesh: ProcessMesh,
    network: Network,
    held: tuple[range, ...],
    hidden: Sequence[TensorSpec],
    losses: TensorSpec | None,
) -> tuple[int, ...]:
    """By every process of a stage in a step. A ring sends 2 (R - 1) / R of what it adds up over R processes."""
    sent = []
    for stage, groups in enumerate(held):
        forward = hidden[groups.stop - 1].message_bytes if stage < len(held) - 1 else 0
        back = losses.message_bytes if stage and losses else 0
        parts = [network.groups[g] for g in groups] + [network.critics[g] for g in groups if g < len(network.critics)]
        gradients = sum(p.numel() * p.itemsize for part in parts for p in part.parameters() if p.requires_grad)
        sent.append(forward + back + round(2 * (mesh.replicas - 1) / mesh.replicas * gradients))
    return tuple(sent)
