"""Predicted gradients, by hand and against plain autograd."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lcprune import recipe
from lcprune.models import Network, build
from lcprune.models.synthesizers import Synthesizer
from lcprune.paper.methods.dni import Dni
from lcprune.training.methods.deep_supervision import DeepSupervision
from lcprune.training.optim import build_optimizers

Shaken = Callable[[Network], tuple[Network, Tensor, Tensor]]


class Times(nn.Module):
    """A module that predicts a weight times the hidden layer."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight, dtype=torch.float64))

    def forward(self, hidden: Tensor, labels: Tensor) -> Tensor:
        return self.weight * hidden


def test_a_chain_of_scalars_worked_out_by_hand() -> None:
    w1, w2, a, m1, m2 = 1.5, 0.5, 2.0, 0.25, -0.75
    parts = [nn.Conv2d(1, 1, 1, bias=False), nn.Conv2d(1, 1, 1, bias=False), nn.Linear(1, 2, bias=False)]
    with torch.no_grad():
        parts[0].weight.fill_(w1)
        parts[1].weight.fill_(w2)
        parts[2].weight.copy_(torch.tensor([[a], [0.0]]))
    whole = nn.Sequential(parts[0], parts[1], nn.Sequential(nn.Flatten(), parts[2]))
    network = Network(nn.Identity(), [whole], [], [Times(m1), Times(m2)]).double()
    images = torch.tensor([1.0, 2.0]).double().reshape(2, 1, 1, 1)
    losses = Dni(network).backward(images, torch.tensor([0, 0]), 0)
    x = (1.0, 2.0)
    h1, h2 = [w1 * value for value in x], [w1 * w2 * value for value in x]
    miss = [1 / (1 + math.exp(a * value)) for value in h2]
    # of each sample's own loss: the true gradient at h_2, and what module 2 predicts there, back through w2
    at_h2, at_h1 = [-a * value for value in miss], [w2 * m2 * value for value in h2]
    error1 = [m1 * value - target for value, target in zip(h1, at_h1, strict=True)]
    error2 = [m2 * value - target for value, target in zip(h2, at_h2, strict=True)]
    assert losses.critics.tolist() == pytest.approx([sum(e**2 for e in error) / 2 for error in (error1, error2)])
    assert losses.exits.tolist() == pytest.approx([-sum(math.log(1 - value) for value in miss) / 2])
    grads = [module.weight.grad.item() for module in network.synthesizers]
    assert grads == pytest.approx(
        [
            sum(2 * e * h for e, h in zip(error, hidden, strict=True)) / 2
            for error, hidden in ((error1, h1), (error2, h2))
        ]
    )
    # groups learn from what their own module predicts: mean over the samples of (prediction * input)
    assert parts[0].weight.grad.item() == pytest.approx(sum(m1 * h * v for h, v in zip(h1, x, strict=True)) / 2)
    assert parts[1].weight.grad.item() == pytest.approx(sum(m2 * h * v for h, v in zip(h2, h1, strict=True)) / 2)
    assert parts[2].weight.grad[0].item() == pytest.approx(-sum(p * h for p, h in zip(miss, h2, strict=True)) / 2)


def loaded(*overrides: str) -> recipe.Recipe:
    shape = ["model.width=0.06", "critics.channels=4", "critics.after=[2, 5, 8]", "train.method=dni"]
    return recipe.load("vgg_cifar10", [*shape, *overrides])


def network_of(*overrides: str) -> Network:
    return build(loaded(*overrides), 5, (3, 8, 8), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))


@pytest.mark.parametrize("overrides", [(), ("critics.condition_on_label=true", "critics.batch_norm=true")])
def test_every_gradient_is_that_of_plain_autograd(shaken: Shaken, overrides: tuple[str, ...]) -> None:
    network, images, labels = shaken(network_of(*overrides))
    parts, expected = list(network.groups[0]), {}
    hidden = [network.normalize(images)]
    for part in parts[:-1]:
        hidden.append(part(hidden[-1]).detach())
    for index, part in enumerate(parts):  # group by group, from the layer before it
        leaf = hidden[index].clone().requires_grad_()
        output = part(leaf)
        if index < 3:
            surrogate = (output * network.synthesizers[index](hidden[index + 1], labels).detach()).sum() / 6
        else:
            surrogate = nn.functional.cross_entropy(output, labels)
        arrived = torch.autograd.grad(surrogate, [leaf, *part.parameters()])
        expected |= {id(weight): grad for weight, grad in zip(part.parameters(), arrived[1:], strict=True)}
        if index:
            module = network.synthesizers[index - 1]
            distances = (module(hidden[index], labels) - 6 * arrived[0]).square().sum(dim=(1, 2, 3))
            grads = torch.autograd.grad(distances.mean(), list(module.parameters()))
            expected |= {id(weight): grad for weight, grad in zip(module.parameters(), grads, strict=True)}
    Dni(network).backward(images, labels, 0)
    assert len(expected) == len(list(network.parameters()))
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[id(parameter)], rtol=1e-9, atol=1e-12, msg=name)


def test_perfect_predictions_are_backpropagation(shaken: Shaken) -> None:
    """Where each module predicts the true gradient, groups learn as in backpropagation."""
    network, images, labels = shaken(network_of())
    hidden, outputs = network.normalize(images), []
    for part in network.groups[0]:
        hidden = part(hidden)
        outputs.append(hidden)
    true = torch.autograd.grad(nn.functional.cross_entropy(hidden, labels) * 6, outputs[:-1])

    class Oracle(nn.Module):
        def __init__(self, gradient: Tensor) -> None:
            super().__init__()
            self.gradient = nn.Parameter(gradient)

        def forward(self, hidden: Tensor, labels: Tensor) -> Tensor:
            return self.gradient * 1.0

    known = Network(network.normalize, list(network.groups), [], [Oracle(gradient) for gradient in true])
    losses = Dni(known).backward(images, labels, 0)
    found = [parameter.grad.clone() for parameter in network.groups.parameters()]
    assert losses.critics.tolist() == pytest.approx([0.0] * 3, abs=1e-20)
    network.zero_grad(set_to_none=True)
    DeepSupervision(network, (), 0.0).backward(images, labels, 0)
    for grad, parameter in zip(found, network.groups.parameters(), strict=True):
        torch.testing.assert_close(grad, parameter.grad, rtol=1e-9, atol=1e-14)


def test_predictions_start_at_zero() -> None:
    network = network_of()
    for module, shape in zip(network.synthesizers, [(4, 8, 8), (8, 4, 4), (15, 2, 2)], strict=True):
        predicted = module(torch.rand(2, *shape), torch.tensor([0, 1]))
        assert torch.equal(predicted, torch.zeros(2, *shape))
    Dni(network).backward(torch.rand(4, 3, 8, 8), torch.arange(4), 0)
    first, *_, last = network.groups[0]
    assert not any(bool(parameter.grad.any()) for parameter in first.parameters())
    assert all(bool(parameter.grad.any()) for parameter in last.parameters())


def test_modules_rest_between_their_steps(shaken: Shaken) -> None:
    network, images, labels = shaken(network_of())
    Dni(network, update_every=2).backward(images, labels, 1)
    assert [p.grad for p in network.synthesizers.parameters() if p.grad is not None] == []
    assert all(parameter.grad is not None for parameter in network.groups.parameters())


def test_autocast_leaves_losses_in_float32(shaken: Shaken) -> None:
    network, images, labels = shaken(network_of())
    with torch.autocast("cpu", torch.bfloat16):
        losses = Dni(network.float()).backward(images.float(), labels, 0)
    assert losses.exits.dtype == losses.critics.dtype == torch.float32
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


def test_a_network_without_cuts_is_a_slip() -> None:
    plain = Network(nn.Identity(), [nn.Sequential(nn.Flatten(), nn.Linear(4, 2))], [])
    with pytest.raises(ValueError, match="0 synthesizers do not fit"):
        Dni(plain)


def test_a_module_that_is_told_the_label_sees_it(shaken: Shaken) -> None:
    network, _, _ = shaken(network_of("critics.condition_on_label=true"))
    module = network.synthesizers[0]
    assert isinstance(module, Synthesizer)
    hidden = torch.rand(1, 4, 8, 8).double()
    one, two = (module(hidden, torch.tensor([label])) for label in (1, 2))
    assert not torch.equal(one, two)
    blind, _, _ = shaken(network_of())
    assert torch.equal(*(blind.synthesizers[0](hidden, torch.tensor([label])) for label in (1, 2)))


def test_modules_learn_with_the_critics_optimizer_and_without_decay() -> None:
    chosen, network = loaded(), network_of()
    trunk, side = build_optimizers(chosen, network)
    (group,) = side.param_groups
    assert list(map(id, group["params"])) == list(map(id, network.synthesizers.parameters()))
    assert (type(side).__name__, group["weight_decay"], group["lr"]) == ("Adam", 0.0, 1e-4)
    of_trunk = {id(weight) for group in trunk.param_groups for weight in group["params"]}
    assert of_trunk == {id(weight) for weight in network.groups.parameters()}
