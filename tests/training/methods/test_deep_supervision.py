"""Joint training of all exits, worked out by hand."""

import math

import pytest
import torch
from torch import nn

from lcprune import recipe
from lcprune.errors import RecipeError
from lcprune.models import Network
from lcprune.training.methods import build_method
from lcprune.training.methods.deep_supervision import DeepSupervision

LN3 = math.log(3)


def test_a_case_worked_out_by_hand() -> None:
    # One pixel of 1, label 0. The critic gives p(0) = 3/4 and main p(0) = 1/4; the critic's loss weighs 1/2.
    group, critic, main = nn.Conv2d(1, 1, 1, bias=False), nn.Linear(1, 2, bias=False), nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        group.weight.fill_(1.0)
        critic.weight.copy_(torch.tensor([[LN3], [0.0]]))
        main.weight.copy_(torch.tensor([[0.0], [LN3]]))
    network = Network(nn.Identity(), [group, nn.Sequential(nn.Flatten(), main)], [nn.Sequential(nn.Flatten(), critic)])
    method = DeepSupervision(network, [0.5], label_smoothing=0.0)
    losses = method.backward(torch.ones(1, 1, 1, 1), torch.tensor([0]), 0)
    assert main.weight.grad.flatten().tolist() == pytest.approx([-0.75, 0.75])
    assert critic.weight.grad.flatten().tolist() == pytest.approx([-0.125, 0.125])  # half of p - target
    assert group.weight.grad.item() == pytest.approx(0.75 * LN3 - 0.125 * LN3)  # from main and from the critic
    assert losses.exits.tolist() == pytest.approx([math.log(4 / 3), math.log(4)])  # without the weight
    assert losses.critics.tolist() == pytest.approx([math.log(4 / 3)])
    assert not losses.exits.requires_grad


def network_of_three() -> Network:
    torch.manual_seed(0)
    groups = [
        nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh()),
        nn.Sequential(nn.Conv2d(3, 3, 1), nn.Tanh()),
        nn.Sequential(nn.Flatten(), nn.Linear(12, 5)),
    ]
    critics = [nn.Sequential(nn.Flatten(), nn.Linear(12, 5)) for _ in range(2)]
    return Network(nn.Identity(), groups, critics).double()


def test_gradients_are_those_of_the_weighted_sum_in_float64() -> None:
    network = network_of_three()
    images, labels = torch.rand(6, 2, 4, 4).double(), torch.arange(6) % 5
    first, second, main = (
        nn.functional.cross_entropy(logits, labels, label_smoothing=0.1) for logits in network(images)
    )
    expected = torch.autograd.grad(main + 0.3 * first + 2.5 * second, list(network.parameters()))
    DeepSupervision(network, [0.3, 2.5], label_smoothing=0.1).backward(images, labels, 0)
    for parameter, grad in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, grad, rtol=1e-12, atol=0)


def test_without_critics_it_is_backpropagation() -> None:
    network = Network(nn.Identity(), [nn.Sequential(nn.Flatten(), nn.Linear(4, 3))], [])
    losses = DeepSupervision(network, [], label_smoothing=0.0).backward(torch.rand(2, 1, 2, 2), torch.tensor([0, 1]), 0)
    assert (losses.exits.shape, losses.critics.shape) == ((1,), (0,))
    assert network.groups[0][1].weight.grad is not None


def test_exits_learn_from_main_and_main_from_the_labels_alone() -> None:
    network, images, labels = network_of_three(), torch.rand(6, 2, 4, 4).double(), torch.arange(6) % 5
    first, second, main = network(images)
    wanted = (main / 2).softmax(dim=1).detach()
    losses, learned = [], []
    for own in (first, second):
        pull = nn.functional.kl_div((own / 2).log_softmax(dim=1), wanted, reduction="batchmean")
        losses.append(nn.functional.cross_entropy(own, labels, label_smoothing=0.1))
        learned.append(0.6 * losses[-1] + 0.4 * 4 * pull)
    main_loss = nn.functional.cross_entropy(main, labels, label_smoothing=0.1)
    expected = torch.autograd.grad(main_loss + 0.3 * sum(learned), list(network.parameters()))
    method = DeepSupervision(network, [0.3, 0.3], label_smoothing=0.1, distill=0.4, temperature=2.0)
    found = method.backward(images, labels, 0)
    for parameter, grad in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, grad, rtol=1e-10, atol=1e-14)
    assert found.exits.tolist() == pytest.approx([loss.item() for loss in (*losses, main_loss)])
    assert found.critics.tolist() == pytest.approx([loss.item() for loss in learned])


def test_every_critic_needs_a_weight() -> None:
    with pytest.raises(ValueError, match="2 critics need as many weights, not 3"):
        DeepSupervision(network_of_three(), [1.0, 1.0, 1.0], label_smoothing=0.0)


# Weights that decay


@pytest.mark.parametrize(("step", "left"), [(0, 1.0), (5, 0.5), (9, 0.1), (10, 0.0), (12, 0.0)])
def test_weights_fall_in_a_straight_line(step: int, left: float) -> None:
    images, labels = torch.rand(6, 2, 4, 4).double(), torch.arange(6) % 5
    network = network_of_three()
    first, second, main = (nn.functional.cross_entropy(logits, labels) for logits in network(images))
    parameters = list(network.parameters())
    expected = torch.autograd.grad(main + left * (0.3 * first + 2.5 * second), parameters)
    DeepSupervision(network, [0.3, 2.5], 0.0, decay_over=10).backward(images, labels, step)
    for parameter, grad in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, grad, rtol=1e-10, atol=1e-15)


def test_a_recipe_or_its_caller_says_how_long_weights_decay() -> None:
    joint = ["train.method=deep_supervision", "critics.after=[2, 5]", "critics.weight_schedule=decay"]
    counted = recipe.load("digits", [*joint, "train.iterations=70"])
    in_epochs = recipe.load("digits", [*joint, "train.epochs=2"])
    assert build_method(counted, network_of_three())._decay_over == 70
    assert build_method(counted, network_of_three(), 34)._decay_over == 34
    assert build_method(in_epochs, network_of_three(), 34)._decay_over == 34
    with pytest.raises(ValueError, match="say how many iterations"):
        build_method(in_epochs, network_of_three())
    constant = recipe.load("digits", [*joint[:2], "train.epochs=2"])
    assert build_method(constant, network_of_three())._decay_over is None


def test_a_recorded_step_cannot_decay() -> None:
    overrides = ["train.cuda_graph=true", "critics.weight_schedule=decay"]
    with pytest.raises(
        RecipeError,
        match="cuda_graph replays one step, but critics.weight_schedule makes steps differ\n  fix: drop one",
    ):
        recipe.load("digits", [*overrides, "train.method=deep_supervision"])
    assert recipe.load("digits", overrides).train.cuda_graph  # weights have no meaning in other methods
