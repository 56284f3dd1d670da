"""Logits of images that pass through the layer groups of several processes, one stage after the other."""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from lcprune.data.loaders import eval_batches
from lcprune.data.sources import Split
from lcprune.models import Network
from lcprune.models.network import eval_mode
from lcprune.training.parallel.mesh import ProcessMesh
from lcprune.training.predicting import eval_batch


def predict_by_stages(
    mesh: ProcessMesh, held: tuple[range, ...], network: Network, split: Split, channels_last: bool
) -> Tensor:
    """Logits of every exit in eval mode, on the CPU of every stage of a replica, ``(K, N, classes)``.

    Args:
        mesh: All processes.
        held: Layer groups of every stage.
        network: The part of this process.
        split: The images of this replica.
        channels_last: Their memory format.
    """
    with eval_mode(network), torch.inference_mode():
        own = _own_logits(mesh, held[mesh.stage], network, split, channels_last)  # (exits of this stage, N, classes)
    everyone = []
    for stage, groups in enumerate(held):
        logits = own if stage == mesh.stage else own.new_empty((len(groups), *own.shape[1:]))
        dist.broadcast(logits, mesh.rank_of(stage), group=mesh.layer_group)
        everyone.append(logits)
    return torch.cat(everyone).cpu()


def _own_logits(mesh: ProcessMesh, groups: range, network: Network, split: Split, channels_last: bool) -> Tensor:
    batches = []
    for hidden in _inputs(mesh, network, split, channels_last):
        logits = []
        for index in groups:
            hidden = network.groups[index](hidden)
            logits.append(network.critics[index](hidden) if index < len(network.critics) else hidden)
        if mesh.stage < mesh.stages - 1:
            _send(mesh, hidden)
        batches.append(torch.stack(logits).float())
    return torch.cat(batches, dim=1)


def _inputs(mesh: ProcessMesh, network: Network, split: Split, channels_last: bool) -> Iterator[Tensor]:
    """What this process' first group reads, batch by batch."""
    size = eval_batch(split)
    if mesh.stage:
        yield from (_received(mesh) for _ in range(0, len(split), size))
    else:
        for images, _ in eval_batches(split, size, mesh.device, channels_last):
            yield network.normalize(images)


def _send(mesh: ProcessMesh, hidden: Tensor) -> None:
    """To the next stage: the shape first, because the last batch is smaller."""
    shape = torch.tensor([hidden.dim(), *hidden.shape], device=hidden.device)
    for part in (shape[:1], shape[1:], hidden.float().contiguous()):
        dist.send(part, mesh.rank_of(mesh.stage + 1), group=mesh.layer_group)


def _received(mesh: ProcessMesh) -> Tensor:
    origin, device, group = mesh.rank_of(mesh.stage - 1), mesh.device, mesh.layer_group
    dims = torch.zeros(1, dtype=torch.int64, device=device)
    dist.recv(dims, origin, group=group)
    shape = torch.zeros(int(dims), dtype=torch.int64, device=device)
    dist.recv(shape, origin, group=group)
    hidden = torch.empty(shape.tolist(), device=device)
    dist.recv(hidden, origin, group=group)
    return hidden
