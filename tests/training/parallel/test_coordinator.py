"""What the processes of a training do together, asked of one process, and what several refuse."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from lcprune import recipe as recipes
from lcprune.data.sources import Split
from lcprune.errors import RecipeError
from lcprune.training.parallel.coordinator import Coordinator
from lcprune.training.parallel.placement import refuse_unsupported


def test_one_process_answers_for_itself() -> None:
    one = Coordinator()
    assert (one.rank, one.world_size, one.stages, str(one)) == (0, 1, 1, "1")
    assert (one.is_writer, one.reads_images, one.rows(8), one.held) == (True, True, None, ())
    assert one.all_gather("a") == ["a"]
    assert one.broadcast(lambda: 3) == 3
    assert [one.should_stop(asked) for asked in (False, True)] == [False, True]
    assert one.gather_losses(torch.tensor([1.0, 2.0]), torch.tensor([3.0])) == ([1.0, 2.0], [3.0])
    before = torch.get_rng_state()
    one.begin(5)
    assert torch.equal(torch.get_rng_state(), before)  # layers that draw numbers go on drawing


@pytest.mark.parametrize(("world_size", "stages"), [(1, 1), (3, 1), (2, 2), (4, 4), (6, 2), (8, 4)])
@pytest.mark.parametrize("count", [1, 3, 500, 1700, 4001])
def test_shares_of_images_are_whole_batches_and_all_images(
    world_size: int, stages: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dist, "get_rank", lambda _: 0)
    monkeypatch.setattr(dist, "get_world_size", lambda _: world_size // stages)
    mesh: Any = SimpleNamespace(rank=0, world_size=world_size, stages=stages, replica_group=None)
    one, replicas = Coordinator(mesh=mesh), world_size // stages
    split = Split(np.zeros((count, 1, 8, 8), np.uint8), np.zeros(count, np.int64))
    ranks = [stage * replicas + replica for replica in range(replicas) for stage in range(stages)]
    shares = [one._share(rank, split) for rank in ranks]
    assert np.concatenate(shares).tolist() == list(range(count))
    for replica in range(replicas):
        of_replica = [share for share in shares[replica * stages : (replica + 1) * stages] if len(share)]
        assert all(len(share) % 500 == 0 for share in of_replica[:-1])


def loaded(*overrides: str) -> Any:
    return recipes.load("digits", list(overrides))


def test_what_replicas_cannot_share_is_refused() -> None:
    refuse_unsupported(loaded("train.critic_warmup=3", "critics.update_every=2"), stages=1, replicas=2)
    for key in ("train.cuda_graph", "train.overlap"):
        with pytest.raises(RecipeError, match=f"{key} does not go with several replicas.*\n.*set {key}: false"):
            refuse_unsupported(loaded(f"{key}=true"), stages=1, replicas=2)


@pytest.mark.parametrize(
    ("override", "instead"),
    [
        ("train.method=backprop", "local_critic"),
        ("critics.distill=0.5", "0"),
        ("train.average=0.5", "0"),
        ("train.ema=0.5", "0"),
        ("train.compile=true", "false"),
        ("train.overlap=true", "false"),
    ],
)
def test_what_layers_cannot_do_is_refused(override: str, instead: str) -> None:
    key = override.partition("=")[0]
    with pytest.raises(RecipeError, match=f"{key} does not go with layers on several.*\n.*set {key}: {instead}, or"):
        refuse_unsupported(loaded(override), stages=2, replicas=1)


def test_losses_of_single_images_are_of_one_process() -> None:
    with pytest.raises(RecipeError, match="logging.sample_losses does not go with several processes"):
        refuse_unsupported(loaded("logging.sample_losses=8"), stages=1, replicas=1)
