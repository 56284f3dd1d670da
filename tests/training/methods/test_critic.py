"""Critic training: every critic is held against main."""

import math
import weakref
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from lcprune.models import Network
from lcprune.training.methods.critic_loss import CriticLoss
from lcprune.training.methods.local_critic import LocalCritic

critic_training = partial(LocalCritic, target="main")
Trunk = Callable[..., tuple[Network, Tensor, Tensor]]

LOSSES = [
    CriticLoss("cascade"),
    CriticLoss("cross_entropy"),
    CriticLoss("mix", 0.3, one_sided=True),
    CriticLoss("mix", 0.6, distill=0.4, temperature=2.0),
]


def chain(*weights: float) -> Network:
    """Groups that multiply one pixel by a weight; exit i has the logits (a_i * h_i, 0), with a = 1, 2, 4."""
    groups = [nn.Conv2d(1, 1, 1, bias=False) for _ in weights]
    readers = [nn.Linear(1, 2, bias=False) for _ in weights]
    with torch.no_grad():
        for index, (group, reader, weight) in enumerate(zip(groups, readers, weights, strict=True)):
            group.weight.fill_(weight)
            reader.weight.copy_(torch.tensor([[2.0**index], [0.0]]))
    last = nn.Sequential(groups[-1], nn.Flatten(), readers[-1])
    critics = [nn.Sequential(nn.Flatten(), reader) for reader in readers[:-1]]
    return Network(nn.Identity(), [*groups[:-1], last], critics).double()


def test_a_case_worked_out_by_hand() -> None:
    network = chain(1.0, 1.0, 0.25)  # a pixel of 1: h = 1, 1, 1/4, and the logits of 0 are 1, 2 and 1
    losses = critic_training(network, CriticLoss()).backward(torch.ones(1, 1, 1, 1).double(), torch.tensor([0]), 0)
    one, two = math.log1p(math.exp(-1)), math.log1p(math.exp(-2))
    assert losses.exits.tolist() == pytest.approx([one, two, one])
    assert losses.critics.tolist() == pytest.approx([0.0, one - two])  # both against main, the first is as good
    # d L / d logits = (p - 1, 1 - p): nothing for the critic that is even, turned round for the one below main
    miss = 1 - 1 / (1 + math.exp(-2))
    grads = [critic[1].weight.grad.flatten().tolist() for critic in network.critics]
    assert grads[0] == pytest.approx([0.0, 0.0], abs=1e-12)
    assert grads[1] == pytest.approx([miss, -miss])
    # groups learn from their own critic's loss: (p - 1) * a_i * (what group i reads)
    assert network.groups[0].weight.grad.item() == pytest.approx(1 / (1 + math.exp(-1)) - 1)
    assert network.groups[1].weight.grad.item() == pytest.approx(-2 * miss)


def naive(network: Network, loss: CriticLoss, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Gradients of Eq. (5) and of L_ci = l(L_i, L_K), with autograd and no trick."""
    inputs, grads = [images], {}
    inputs[0] = network.normalize(images)
    for group in network.groups[:-1]:
        inputs.append(group(inputs[-1]).detach())
    main = network.groups[-1](inputs[-1])
    target = nn.functional.cross_entropy(main, labels, reduction="none").detach()
    grads |= gradients("groups.3", network.groups[-1], nn.functional.cross_entropy(main, labels))
    for index, critic in enumerate(network.critics):
        group = network.groups[index]
        logits = critic(group(inputs[index]))
        grads |= gradients(f"groups.{index}", group, nn.functional.cross_entropy(logits, labels))
        logits = critic(inputs[index + 1])
        own = nn.functional.cross_entropy(logits, labels, reduction="none")
        gap = own - target
        gap = torch.where(gap > 0, gap, 0.0 if loss.one_sided else -gap)
        share, warm = loss.cascade_share, loss.temperature
        mixed = share * gap.mean() + (1 - share) * own.mean()
        said, wanted = (logits / warm).log_softmax(1), (main / warm).softmax(1).detach()
        pull = warm**2 * nn.functional.kl_div(said, wanted, reduction="batchmean")
        grads |= gradients(f"critics.{index}", critic, (1 - loss.distill) * mixed + loss.distill * pull)
    return grads


def gradients(prefix: str, part: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*part.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters)
    return {f"{prefix}.{name}": grad for name, grad in zip(names, found, strict=True)}


@pytest.mark.parametrize("loss", LOSSES, ids=str)
@pytest.mark.parametrize("overrides", [(), ("critics.batch_norm=true",)], ids=["plain", "batch_norm"])
@pytest.mark.parametrize("memory", ["fast", "lean"])
@pytest.mark.parametrize("overlap", [False, True])
def test_every_gradient_is_that_of_plain_autograd(
    trunk: Trunk, loss: CriticLoss, overrides: tuple[str, ...], memory: str, overlap: bool
) -> None:
    network, images, labels = trunk(*overrides)
    expected = naive(network, loss, images, labels)
    method = critic_training(network, loss, memory=memory, overlap=overlap)
    method.exits.side.enabled = overlap  # the order of work is that of two streams; without CUDA there is one
    method.backward(images, labels, 0)
    assert len(expected) == len(list(network.parameters()))
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-9, atol=1e-12, msg=name)


def test_the_cascade_would_be_another_target(trunk: Trunk) -> None:
    network, images, labels = trunk()
    main = critic_training(network, CriticLoss()).backward(images, labels, 0).critics
    following = LocalCritic(network, CriticLoss()).backward(images, labels, 0).critics
    assert main[-1].item() == pytest.approx(following[-1].item())  # main is what follows the last critic
    assert main[:-1].tolist() != pytest.approx(following[:-1].tolist())


@pytest.mark.parametrize(("memory", "kept"), [("fast", [0, 1, 2, 3]), ("lean", [0, 0, 0, 0])])
def test_everything_waits_for_main_unless_memory_is_lean(trunk: Trunk, memory: str, kept: list[int]) -> None:
    network, images, labels = trunk()
    alive: list[weakref.ref[Tensor]] = []
    seen: list[int] = []
    for group in network.groups:
        convolution = next(module for module in group if isinstance(module, nn.Conv2d))
        convolution.register_forward_pre_hook(lambda *_: seen.append(sum(ref() is not None for ref in alive)))
        convolution.register_forward_hook(lambda *args: alive.append(weakref.ref(args[-1])))
    critic_training(network, CriticLoss(), memory=memory).backward(images, labels, 0)
    assert seen == kept
