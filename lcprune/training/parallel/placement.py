"""Divides layer groups and batches over processes, and connects these."""

import copy
from collections.abc import Sequence
from itertools import combinations, pairwise

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lcprune.errors import RecipeError, SetupError
from lcprune.models import Network
from lcprune.models.network import eval_mode
from lcprune.recipe import Recipe
from lcprune.specs import METHODS
from lcprune.training import precision
from lcprune.training.methods.local_critic import LocalCritic
from lcprune.training.parallel.layers import Links
from lcprune.training.parallel.mesh import ProcessMesh
from lcprune.training.parallel.messages import Receiver, Sender, TensorSpec

_REPEATS = 3


def refuse_unsupported(recipe: Recipe, *, stages: int, replicas: int) -> None:
    """Refuses recipes that cannot be divided over so many stages and replicas.

    Raises:
        RecipeError: If the recipe is one of them.
    """
    train = recipe.train
    able = " or ".join(name for name, spec in METHODS.items() if spec.layer_parallel)
    by_layers = {
        "train.method": (not METHODS[train.method].layer_parallel, able),
        "critics.distill": (recipe.critics.distill > 0, "0"),
        "train.average": (train.average > 0, "0"),
        "train.ema": (train.ema > 0, "0"),
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


def divide(
    mesh: ProcessMesh, network: Network, batch_shape: Sequence[int], groups_per_rank: Sequence[int]
) -> tuple[range, ...]:
    """Layer groups of every stage, from 0: as many as asked for, else balanced by the times that rank 0 measures.

    Raises:
        SetupError: If the groups cannot be divided as asked for.
    """
    if groups_per_rank:
        return given(groups_per_rank, len(network.groups), mesh.stages)
    costs = [0.0] * len(network.groups)
    if mesh.stages == 1 or mesh.stages == len(network.groups):
        return balanced(costs, mesh.stages)
    if mesh.rank == 0:
        costs = measured_costs_s(network, torch.rand(*batch_shape, device=mesh.device))
    dist.broadcast_object_list(costs, src=0)
    return balanced(costs, mesh.stages)


def balanced(costs: Sequence[float], stages: int) -> tuple[range, ...]:
    """Consecutive layer groups for every stage, so that the largest cost of a stage is minimal.

    Args:
        costs: Of every group with its critic, in any unit.
        stages: At most as many as groups.
    """
    ends = ((*inner, len(costs)) for inner in combinations(range(1, len(costs)), stages - 1))
    divided = (tuple(range(a, b) for a, b in pairwise((0, *each))) for each in ends)
    return min(divided, key=lambda held: max(sum(costs[group] for group in groups) for groups in held))


def given(counts: Sequence[int], groups: int, stages: int) -> tuple[range, ...]:
    """Layer groups for every stage, by their number in each.

    Raises:
        SetupError: If there are more or fewer stages or groups.
    """
    if len(counts) != stages or sum(counts) != groups or min(counts) < 1:
        raise SetupError(
            f"{', '.join(map(str, counts))} does not divide {groups} layer groups over {stages} processes",
            f"name {stages} numbers from 1 up that add up to {groups}, or leave it out",
        )
    ends = [sum(counts[:n]) for n in range(stages + 1)]
    return tuple(range(a, b) for a, b in pairwise(ends))


def measured_costs_s(network: Network, images: Tensor) -> list[float]:
    """Mean time of a forward and a backward pass of every group with its critic, in seconds.

    Args:
        network: It is not changed.
        images: A batch, on the network's device.
    """
    from torch.utils.benchmark import Timer  # imports compilers, and warns where CUDA is installed without a device

    costs = []
    with torch.no_grad():
        hidden = network.normalize(images)
    for index, group in enumerate(network.groups):
        parts = copy.deepcopy(nn.Sequential(group, *network.critics[index : index + 1]))
        timer = Timer(
            "parts(hidden).float().square().mean().backward()",
            globals={"parts": parts, "hidden": hidden},
            num_threads=torch.get_num_threads(),
        )
        costs.append(timer.timeit(_REPEATS).mean)
        with torch.no_grad():
            hidden = parts[0](hidden)
    return costs


def hidden_specs(
    recipe: Recipe, method: LocalCritic, image_shape: Sequence[int], samples: int, device: torch.device
) -> list[TensorSpec]:
    """Of the tensor that is sent after each group but the last."""
    bf16 = precision.resolve(recipe.train.precision, device) == "bf16"
    specs = []
    parts = nn.ModuleList(stage.group for stage in method.stages)
    with eval_mode(parts), torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        hidden = method.normalize(torch.zeros(1, *image_shape, device=device))
        for stage in method.stages:
            hidden = stage.next_pool(stage.group(hidden))
            channels_last = recipe.train.channels_last and hidden.dim() == 4
            specs.append(TensorSpec((samples, *hidden.shape[1:]), hidden.dtype, channels_last))
    return specs


def connect_stages(
    mesh: ProcessMesh, held: Sequence[range], hidden: Sequence[TensorSpec], losses: TensorSpec | None, depth: int
) -> Links:
    """Connections to the previous and the next stage; `losses` is None if critics do not need them."""
    links = Links()
    own = held[mesh.stage]
    for stage in range(len(held) - 1):
        for replica in range(mesh.replicas):  # every process must create every group
            pair = [stage * mesh.replicas + replica, (stage + 1) * mesh.replicas + replica]
            forward, back = (dist.new_group(pair, timeout=mesh.timeout) for _ in range(2))
            if mesh.rank not in pair or isinstance(forward, int) or isinstance(back, int):
                continue
            other = pair[1 - pair.index(mesh.rank)]
            if mesh.rank == pair[0]:
                links.hidden_out = Sender(mesh, other, forward, hidden[own.stop - 1], depth)
                links.losses_in = Receiver(mesh, other, back, losses, depth) if losses else None
            else:
                links.hidden_in = Receiver(mesh, other, forward, hidden[own.start - 1], depth)
                links.losses_out = Sender(mesh, other, back, losses, depth) if losses else None
    return links


def bytes_sent(
    network: Network, held: Sequence[range], replicas: int, hidden: Sequence[TensorSpec], losses: TensorSpec | None
) -> tuple[int, ...]:
    """Bytes that each process of a stage sends in a step. A ring all-reduce sends 2 (R - 1) / R of the gradients."""
    sent = []
    for stage, groups in enumerate(held):
        forward = hidden[groups.stop - 1].message_bytes if stage < len(held) - 1 else 0
        back = losses.message_bytes if stage and losses else 0
        parts = [network.groups[g] for g in groups] + [network.critics[g] for g in groups if g < len(network.critics)]
        gradients = sum(p.numel() * p.itemsize for part in parts for p in part.parameters() if p.requires_grad)
        sent.append(forward + back + round(2 * (replicas - 1) / replicas * gradients))
    return tuple(sent)
