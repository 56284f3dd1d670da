from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lcprune import recipe
from lcprune.models import Network, build


@pytest.fixture(scope="session")
def shaken() -> Callable[[Network], tuple[Network, Tensor, Tensor]]:
    """``shaken(network)``: in float64, with no parameter that is zero; and a batch."""

    def shake(network: Network) -> tuple[Network, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(4)
        network = network.double().train()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        images = torch.rand(6, 3, 8, 8, generator=generator, dtype=torch.float64)
        return network, images, torch.randint(5, (6,), generator=generator)

    return shake


@pytest.fixture(scope="session")
def trunk(
    shaken: Callable[[Network], tuple[Network, Tensor, Tensor]],
) -> Callable[..., tuple[Network, Tensor, Tensor]]:
    """``trunk("critics.head=pooled")``: a small network with three critics, shaken."""

    def make(*overrides: str) -> tuple[Network, Tensor, Tensor]:
        shape = ["model.width=0.06", "critics.channels=4", "critics.after=[2, 5, 8]"]
        loaded = recipe.load("vgg_cifar10", [*shape, *overrides])
        return shaken(build(loaded, 5, (3, 8, 8), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)))

    return make
