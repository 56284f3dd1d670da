"""What goes from one process to its neighbour arrives as it was, in order, and not without end."""

import time
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from lcprune.errors import PeerError
from lcprune.training.parallel.heartbeat import is_of_others
from lcprune.training.parallel.messages import Receiver, Sender, TensorSpec

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("messages")]

FORMS = (
    TensorSpec((2, 3, 4, 5)),
    TensorSpec((2, 3, 4, 5), torch.bfloat16, channels_last=True),
    TensorSpec((2, 3, 4, 5), channels_last=True),
    TensorSpec((6,)),
    TensorSpec((3, 7), torch.float16),
)


def tensor(spec: TensorSpec, step: int) -> torch.Tensor:
    count = torch.Size(spec.shape).numel()
    made = (torch.arange(count) + step).to(spec.dtype).view(spec.shape)
    return made.contiguous(memory_format=torch.channels_last) if spec.channels_last else made


def test_a_message_is_a_header_and_the_tensor() -> None:
    assert [spec.message_bytes for spec in FORMS] == [8 + 480, 8 + 240, 8 + 480, 8 + 24, 8 + 42]
    for spec in FORMS:
        message = torch.zeros(spec.message_bytes, dtype=torch.uint8)
        spec.view(message).copy_(tensor(spec, 0))
        view = spec.view(message)
        assert torch.equal(view, tensor(spec, 0))
        assert (view.shape, view.dtype) == (spec.shape, spec.dtype)
        if spec.channels_last:
            assert view.is_contiguous(memory_format=torch.channels_last)
        assert not message[:8].any()


def work() -> dict[str, Any]:
    """Rank 0 sends and rank 1 receives."""
    rank = dist.get_rank()
    mesh = mesh_of(minutes=2)
    found: dict[str, Any] = {"arrived": []}
    for spec in FORMS:
        group = dist.new_group([0, 1])
        sender, receiver = Sender(mesh, 1 - rank, group, spec, 2), Receiver(mesh, 1 - rank, group, spec, 2)
        right = []
        for step in range(5):
            if rank == 0:
                sent = tensor(spec, step)
                sender.send(step, sent)
                sent.zero_()  # what was sent may be changed
            else:
                time.sleep(0.02)
                arrived = receiver.receive(step)
                right.append(torch.equal(arrived, tensor(spec, step)))
        sender.close()
        found["arrived"].append(right)
    dist.barrier()
    found |= wrong_step(mesh, rank) | never_taken(rank)
    return found


def mesh_of(**timeout: int) -> Any:
    names = SimpleNamespace(names=["rank 0 (layer group 1)", "rank 1 (layer group 1)"])
    return SimpleNamespace(device=torch.device("cpu"), timeout=timedelta(**timeout), heartbeat=names)


def wrong_step(mesh: Any, rank: int) -> dict[str, Any]:
    group = dist.new_group([0, 1])
    if rank == 0:
        sender = Sender(mesh, 1, group, FORMS[3], 1)
        sender.send(7, tensor(FORMS[3], 0))
        sender.close()
        return {}
    try:
        Receiver(mesh, 0, group, FORMS[3], 1).receive(6)
    except PeerError as error:
        return {"wrong step": error.problem}
    return {}


def never_taken(rank: int) -> dict[str, Any]:
    """The third of two messages waits for the other process, but not for ever."""
    mesh = mesh_of(seconds=1)
    spec = TensorSpec((1 << 18,))
    group = dist.new_group([0, 1])
    found: dict[str, Any] = {}
    if rank == 0:
        sender = Sender(mesh, 1, group, spec, 2)
        for step in range(2):
            sender.send(step, tensor(spec, 0))
        started = time.perf_counter()
        try:
            sender.send(2, tensor(spec, 0))
        except RuntimeError as error:
            found = {"waited_s": time.perf_counter() - started, "is of others": is_of_others(error)}
    dist.barrier()
    return found


@pytest.fixture(scope="module")
def pair(ranks: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ranks(work, 2)
    return found


def test_tensors_arrive(pair: list[dict[str, Any]]) -> None:
    assert pair[1]["arrived"] == [[True] * 5] * len(FORMS)


def test_another_step_is_refused(pair: list[dict[str, Any]]) -> None:
    assert pair[1]["wrong step"] == "rank 0 (layer group 1) sent step 7 where step 6 was due"


def test_a_full_queue_waits_and_gives_up(pair: list[dict[str, Any]]) -> None:
    assert pair[0]["waited_s"] > 0.9  # of the 1 s that it may; an upper limit would hold on an idle machine alone
    assert pair[0]["is of others"]
