"""Groups, critics and the sub-models that are cut out of them."""

import gc
import weakref

import pytest
import torch
from torch import nn

from lcprune import recipe
from lcprune.models import Network, Normalize, build

IMAGE = (3, 16, 16)


def small() -> Network:
    overrides = ["model.width=0.1", "critics.channels=8"]
    network = build(recipe.load("vgg_cifar10", overrides), 5, IMAGE, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    with torch.no_grad():  # BatchNorm that does something in eval mode
        generator = torch.Generator().manual_seed(1)
        for part in network.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_(generator=generator)
                part.running_var.uniform_(0.5, 2, generator=generator)
    return network.eval()


def test_normalize_maps_each_channel() -> None:
    image = torch.tensor([[[[0.5, 1.0]], [[0.25, 0.0]]]])
    expected = torch.tensor([[[[0.0, 2.0]], [[0.0, -2.0]]]])
    assert torch.equal(Normalize((0.5, 0.25), (0.25, 0.125))(image), expected)


def test_normalisation_is_saved_and_not_trained() -> None:
    network = small()
    assert torch.equal(network.state_dict()["normalize.mean"], torch.tensor([0.4, 0.5, 0.6]).reshape(1, 3, 1, 1))
    assert [name for name, _ in network.named_parameters() if "normalize" in name] == []


def test_the_image_is_normalised_inside_the_network() -> None:
    network = small()
    image = torch.rand(2, *IMAGE)
    hidden = network.groups[0]((image - network.normalize.mean) / network.normalize.std)
    assert torch.equal(network(image)[0], network.critics[0](hidden))


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_a_sub_model_gives_the_logits_of_its_exit(k: int) -> None:
    network = small()
    image = torch.rand(6, *IMAGE)
    with torch.no_grad():
        assert torch.equal(network.submodel(k)(image), network(image)[k - 1])


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_a_sub_model_keeps_nothing_else_in_memory(k: int) -> None:
    network = small()
    submodel = network.submodel(k)
    kept = {id(tensor) for tensor in [*submodel.parameters(), *submodel.buffers()]}
    tensors = [*network.parameters(), *network.buffers()]
    others = [weakref.ref(tensor) for tensor in tensors if id(tensor) not in kept]
    assert len(others) + len(kept) == len(tensors)
    del network, tensors
    gc.collect()
    assert [other() for other in others if other() is not None] == []
    assert submodel(torch.rand(1, *IMAGE)).shape == (1, 5)


@pytest.mark.parametrize("k", [0, 5, -1])
def test_an_exit_that_is_not_there(k: int) -> None:
    with pytest.raises(ValueError, match=f"sub-model {k} of a network with 4 exits"):
        small().submodel(k)
    with pytest.raises(ValueError, match=f"exit {k} of a network with 4 exits"):
        small().truncated(k)


def test_every_group_but_the_last_has_a_critic() -> None:
    groups = [nn.Linear(2, 2), nn.Linear(2, 2)]
    with pytest.raises(ValueError, match="2 groups need 1 critics, not 2"):
        Network(nn.Identity(), groups, groups)
    assert len(Network(nn.Identity(), groups, groups[:1])(torch.zeros(1, 2))) == 2


def test_a_network_that_ends_at_an_exit_says_what_that_sub_model_says() -> None:
    network = small()
    image = torch.rand(2, *IMAGE, generator=torch.Generator().manual_seed(0))
    whole, ended = network(image), network.truncated(2)
    assert len(ended.critics) == 1
    for own, of_whole in zip(ended(image), whole, strict=False):
        assert torch.equal(own, of_whole)
    assert not {id(p) for p in network.groups[2].parameters()} & {id(p) for p in ended.parameters()}
    assert torch.equal(network.truncated(4)(image)[-1], whole[-1])


def test_synthesizers_belong_to_no_exit() -> None:
    network = Network(nn.Identity(), [nn.Linear(2, 2)], [], [nn.Linear(2, 7)])
    assert [tuple(weight.shape) for weight in network.synthesizers.parameters()] == [(7, 2), (7,)]
    assert "synthesizers.0.weight" in network.state_dict()
    own = {id(weight) for weight in network.submodel(1).parameters()}
    assert own == {id(weight) for weight in network.groups.parameters()}
    assert len(network(torch.zeros(1, 2))) == 1
