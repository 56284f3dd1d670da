"""Predicted gradients, against plain autograd."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lcprune import recipe
from lcprune.models import Network, build
from lcprune.paper.methods.dni import Dni
from lcprune.training.optim import build_optimizers

Shaken = Callable[[Network], tuple[Network, Tensor, Tensor]]


def loaded(*overrides: str) -> recipe.Recipe:
    shape = ["model.width=0.06", "critics.channels=4", "critics.after=[2, 5, 8]", "train.method=dni"]
    return recipe.load("vgg_cifar10", [*shape, *overrides])


def network_of(*overrides: str) -> Network:
    return build(loaded(*overrides), 5, (3, 8, 8), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))


@pytest.mark.parametrize("overrides", [(), ("critics.condition_on_label=true", "critics.batch_norm=true")])
def test_every_gradient_is_that_of_plain_autograd(shaken: Shaken, overrides: tuple[str, ...]) -> None:
    network, images, labels = shaken(network_of(*overrides))
    parts, expected, errors = list(network.groups[0]), {}, []
    hidden = [network.normalize(images)]
    for part in parts[:-1]:
        hidden.append(part(hidden[-1]).detach())
    for index, part in enumerate(parts):  # group by group, from the layer before it
        leaf = hidden[index].clone().requires_grad_()
        output = part(leaf)
        if index < 3:
            surrogate = (output * network.synthesizers[index](hidden[index + 1], labels).detach()).sum() / 6
        else:
            surrogate = main = nn.functional.cross_entropy(output, labels)
        arrived = torch.autograd.grad(surrogate, [leaf, *part.parameters()])
        expected |= {id(weight): grad for weight, grad in zip(part.parameters(), arrived[1:], strict=True)}
        if index:
            module = network.synthesizers[index - 1]
            distances = (module(hidden[index], labels) - 6 * arrived[0]).square().sum(dim=(1, 2, 3))
            errors.append(distances.mean().item())
            grads = torch.autograd.grad(distances.mean(), list(module.parameters()))
            expected |= {id(weight): grad for weight, grad in zip(module.parameters(), grads, strict=True)}
    losses = Dni(network).backward(images, labels, 0)
    assert losses.exits.tolist() == pytest.approx([main.item()])
    assert losses.critics.tolist() == pytest.approx(errors)
    assert len(expected) == len(list(network.parameters()))
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[id(parameter)], rtol=1e-9, atol=1e-12, msg=name)


def test_modules_rest_between_their_steps(shaken: Shaken) -> None:
    network, images, labels = shaken(network_of())
    Dni(network, update_every=2).backward(images, labels, 1)
    assert [p.grad for p in network.synthesizers.parameters() if p.grad is not None] == []
    assert all(parameter.grad is not None for parameter in network.groups.parameters())


def test_a_network_without_cuts_is_a_slip() -> None:
    plain = Network(nn.Identity(), [nn.Sequential(nn.Flatten(), nn.Linear(4, 2))], [])
    with pytest.raises(ValueError, match="0 synthesizers do not fit"):
        Dni(plain)


def test_modules_learn_with_the_critics_optimizer_and_without_decay() -> None:
    chosen, network = loaded(), network_of()
    trunk, side = build_optimizers(chosen, network)
    (group,) = side.param_groups
    assert list(map(id, group["params"])) == list(map(id, network.synthesizers.parameters()))
    assert (type(side).__name__, group["weight_decay"], group["lr"]) == ("Adam", 0.0, 1e-4)
    of_trunk = {id(weight) for group in trunk.param_groups for weight in group["params"]}
    assert of_trunk == {id(weight) for weight in network.groups.parameters()}
