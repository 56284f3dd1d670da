"""How a process takes its place among those that train together: what it holds, what it does, whom it talks to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from lcprune.errors import RecipeError
from lcprune.models import Network
from lcprune.recipe import Recipe
from lcprune.training import precision
from lcprune.training.checkpoint import TrainingState
from lcprune.training.methods import Method, as_it_is, build_method, critic_loss
from lcprune.training.methods.local_exits import stages_of
from lcprune.training.parallel.balance import balanced, given, measured_costs_s
from lcprune.training.parallel.batch_norm import reduce_statistics
from lcprune.training.parallel.crew import Crew
from lcprune.training.parallel.layers import LayerParallel, Links
from lcprune.training.parallel.messages import HEADER_BYTES, Form, Neighbour, Receiver, Sender
from lcprune.training.parallel.parts import part_of
from lcprune.training.parallel.replicas import Replicas
from lcprune.training.parallel.world import World

_FLOAT_BYTES = 4


@dataclass(frozen=True)
class Division:
    """How the work is divided."""

    held: tuple[range, ...]
    """Layer groups of every stage, from 0."""
    bytes_sent_per_step: tuple[int, ...]
    """By every stage, each of its replicas: to its neighbours, and gradients to the other replicas."""


@dataclass(frozen=True)
class Team:
    """A process in its place."""

    method: Method
    state: TrainingState
    """Of what this process holds."""
    ranks: Crew
    division: Division


def refuse_what_cannot_be_divided(recipe: Recipe, world: World) -> None:
    """Refuses what layer parallel training cannot do.

    Raises:
        RecipeError: If the recipe asks for it.
    """
    if world.stages == 1:
        return
    train, critics = recipe.train, recipe.critics
    refused = {
        "train.method": (train.method != "local_critic", "local_critic"),
        "critics.distill": (critics.distill > 0, "0"),
        "train.average": (train.average > 0, "0"),
        "train.compile": (train.compile, "false"),
        "train.cuda_graph": (train.cuda_graph, "false"),
        "train.overlap": (train.overlap, "false"),
    }
    for key, (is_asked_for, instead) in refused.items():
        if is_asked_for:
            raise RecipeError(
                f"{key} does not go with layers on several processes",
                f"set {key}: {instead}, or divide the batches alone: --parallel data",
            )


def join(
    world: World,
    recipe: Recipe,
    whole: TrainingState,
    image_shape: Sequence[int],
    make_whole: Callable[[], TrainingState],
    *,
    iterations: int,
    groups_per_rank: Sequence[int] = (),
    staleness: int = 0,
) -> Team:
    """Takes this process' part out of the whole, and connects it with the others.

    Args:
        world: All processes.
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
    replicas = Replicas(world.replica_group, world.device)
    shared = replicas.size > 1
    rows = replicas.rows(recipe.data.batch_size)
    samples = rows.stop - rows.start
    held = _divided(world, network, (samples, *image_shape), groups_per_rank)
    if shared:
        reduce_statistics(network, world.replica_group)  # from here on, no process runs it alone
    division = Division(held, _bytes_sent(world, recipe, network, image_shape, held, samples))

    world.heartbeat.names = [_name(rank, held[rank // world.replicas]) for rank in range(world.size)]
    crew = Crew(world, held, replicas, make_whole, seed=recipe.train.seed, staleness=staleness)
    wrap = replicas.wrap if shared else as_it_is
    if world.stages == 1:
        replicas.hold(whole.optimizers)
        return Team(build_method(recipe, network, iterations, wrap=wrap), whole, crew, division)
    loss = critic_loss(recipe.critics)
    method = LayerParallel(
        network,
        held[world.stage],
        _links(world, recipe, network, image_shape, held, samples, staleness),
        loss,
        staleness=staleness,
        update_every=recipe.critics.update_every,
        label_smoothing=recipe.train.label_smoothing,
        lean=recipe.train.memory == "lean",
        wrap=wrap,
        mean=replicas.mean if shared else None,
    )
    state = part_of(whole, recipe, held[world.stage])
    replicas.hold(state.optimizers)
    crew.method = method
    return Team(method, state, crew, division)


def _name(rank: int, groups: range) -> str:
    if len(groups) == 1:
        return f"rank {rank} (layer group {groups.start + 1})"
    return f"rank {rank} (layer groups {groups.start + 1} to {groups.stop})"


def _divided(
    world: World, network: Network, batch_shape: Sequence[int], groups_per_rank: Sequence[int]
) -> tuple[range, ...]:
    """Layer groups of every stage; by the clock of the first rank, which all of them take."""
    if groups_per_rank:
        return given(groups_per_rank, len(network.groups), world.stages)
    costs = [0.0] * len(network.groups)
    if world.stages == 1 or world.stages == len(network.groups):
        return balanced(costs, world.stages)
    if world.rank == 0:
        costs = measured_costs_s(network, torch.rand(*batch_shape, device=world.device))
    dist.broadcast_object_list(costs, src=0)
    return balanced(costs, world.stages)


def _forms(
    recipe: Recipe, network: Network, image_shape: Sequence[int], samples: int, device: torch.device
) -> list[Form]:
    """Of what goes forward behind every group but the last."""
    stages, _ = stages_of(network, two_passes=False)
    bf16 = precision.resolve(recipe.train.precision, device) == "bf16"
    modes = [(part, part.training) for part in network.modules()]
    network.eval()
    forms = []
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        hidden = network.normalize(torch.zeros(1, *image_shape, device=device))
        for stage in stages:
            hidden = stage.hand_on(stage.plain_group(hidden))
            channels_last = recipe.train.channels_last and hidden.dim() == 4
            forms.append(Form((samples, *hidden.shape[1:]), hidden.dtype, channels_last))
    for part, training in modes:
        part.training = training
    return forms


def _links(
    world: World,
    recipe: Recipe,
    network: Network,
    image_shape: Sequence[int],
    held: tuple[range, ...],
    samples: int,
    staleness: int,
) -> Links:
    """Connections with the stages before and behind."""
    forms = _forms(recipe, network, image_shape, samples, world.device)
    losses = Form((samples,))
    waits = critic_loss(recipe.critics).waits
    depth = staleness + 1
    before = behind = None
    for stage in range(len(held) - 1):
        for replica in range(world.replicas):  # every process has to hear of every group
            pair = [stage * world.replicas + replica, (stage + 1) * world.replicas + replica]
            groups = [dist.new_group(pair, timeout=world.timeout) for _ in range(2)]  # forward and back
            if world.rank == pair[0]:
                behind = [
                    Neighbour(pair[1], world.heartbeat.names[pair[1]], group)
                    for group in groups
                    if not isinstance(group, int)
                ]
            if world.rank == pair[1]:
                before = [
                    Neighbour(pair[0], world.heartbeat.names[pair[0]], group)
                    for group in groups
                    if not isinstance(group, int)
                ]
    own = held[world.stage]
    return Links(
        hidden_in=None if before is None else Receiver(world, before[0], forms[own.start - 1], depth),
        hidden_out=None if behind is None else Sender(world, behind[0], forms[own.stop - 1], depth),
        losses_in=None if behind is None or not waits else Receiver(world, behind[1], losses, depth),
        losses_out=None if before is None or not waits else Sender(world, before[1], losses, depth),
    )


def _bytes_sent(
    world: World,
    recipe: Recipe,
    network: Network,
    image_shape: Sequence[int],
    held: tuple[range, ...],
    samples: int,
) -> tuple[int, ...]:
    """By every process of a stage in a step. A ring sends 2 (R - 1) / R of what it adds up over R processes."""
    sent = [0] * len(held)
    if len(held) > 1:
        forms = _forms(recipe, network, image_shape, samples, world.device)
        waits = critic_loss(recipe.critics).waits
        for stage, groups in enumerate(held):
            sent[stage] += forms[groups.stop - 1].message_bytes if stage < len(held) - 1 else 0
            sent[stage] += HEADER_BYTES + samples * _FLOAT_BYTES if stage and waits else 0
    for stage, groups in enumerate(held):
        parts = [network.groups[g] for g in groups] + [network.critics[g] for g in groups if g < len(network.critics)]
        gradients = sum(p.numel() * p.itemsize for part in parts for p in part.parameters() if p.requires_grad)
        sent[stage] += round(2 * (world.replicas - 1) / world.replicas * gradients)
    return tuple(sent)
