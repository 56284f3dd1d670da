"""A network that cannot train is refused before a folder is made."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lcprune.errors import LcpruneError, ModelError
from lcprune.models import Network
from lcprune.models.check import check_forward_pass


def network(*layers: nn.Module) -> Network:
    return Network(nn.Identity(), [nn.Sequential(*layers)], [])


def test_batch_norm_of_one_value(tmp_path: Path) -> None:
    net = network(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(1, 2))
    with pytest.raises(ModelError, match=r"data\.batch_size is 1, and BatchNorm needs two values") as error:
        check_forward_pass(net, (1, 4, 4), 1)
    assert error.value.fix == "set data.batch_size: 2 or more"
    check_forward_pass(net, (1, 4, 4), 2)
    check_forward_pass(network(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(16, 2)), (1, 4, 4), 1)


def test_the_network_is_left_as_it_is() -> None:
    net = network(nn.BatchNorm2d(1), nn.Dropout(0.5), nn.Flatten(), nn.Linear(16, 2)).eval()
    before = torch.get_rng_state()
    check_forward_pass(net, (1, 4, 4), 8)
    assert torch.equal(torch.get_rng_state(), before)
    assert not net.training
    assert int(net.groups[0][0].num_batches_tracked) == 0


def test_images_that_pooling_shrinks_to_nothing() -> None:
    net = network(*(nn.MaxPool2d(2) for _ in range(3)), nn.Flatten(), nn.Linear(1, 2))
    with pytest.raises(ModelError, match="the network cannot take images of 1x4x4: ") as error:
        check_forward_pass(net, (1, 4, 4), 8)
    assert "data.image_size" in error.value.fix


@pytest.mark.parametrize("override", ["data.batch_size=2000", "data.val_size=5", "data.val_size=1437"])
def test_a_run_that_cannot_be_leaves_no_folder(
    here: Path, train_tiny: Callable[..., Any], override: str
) -> None:  # too few images for a batch, a class without validation images, none left to train on
    with pytest.raises(LcpruneError, match=r"data\.(batch|val)_size"):
        train_tiny(here / "run", override)
    assert not (here / "run").exists()
