"""Every gradient of a step of local critic and critic training, against a plain implementation with two passes."""

import math
import weakref
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from lcprune import recipe
from lcprune.models import Network, build
from lcprune.training.methods.base import sample_losses
from lcprune.training.methods.critic_loss import CriticLoss
from lcprune.training.methods.local_critic import LocalCritic

PAPER = CriticLoss()
Gradients = dict[str, Tensor]
PLACES = {3: (2, 8), 4: (2, 5, 8)}
# The plain implementation, which shares no line with the one under test


def cross_entropy(logits: Tensor, label: int, smoothing: float) -> Tensor:
    """Of one sample, from its definition."""
    log_p = logits - torch.logsumexp(logits, 0)
    classes = len(logits)
    target = [smoothing / classes + (1 - smoothing) * (index == label) for index in range(classes)]
    return -sum(share * log_p[index] for index, share in enumerate(target))


def losses_of(logits: Tensor, labels: Tensor, smoothing: float) -> list[Tensor]:
    return [cross_entropy(row, int(label), smoothing) for row, label in zip(logits, labels, strict=True)]


def mean(values: Sequence[Tensor]) -> Tensor:
    return sum(values) / len(values)


def kl(wanted: Tensor, said: Tensor, temperature: float) -> Tensor:
    """T^2 KL of one sample, from its definition; no gradient flows into what is wanted."""
    p, q = torch.softmax(wanted.detach() / temperature, 0), torch.softmax(said / temperature, 0)
    return temperature**2 * sum(p[index] * torch.log(p[index] / q[index]) for index in range(len(p)))


def gradients_in_two_passes(
    network: Network, images: Tensor, labels: Tensor, loss: CriticLoss, *, smoothing: float = 0.0, target: str = "next"
) -> tuple[Gradients, list[float], list[float]]:
    """Gradients by name, mean loss of every exit and of every critic: Eq. (5) and (7), one after the other."""
    grads: Gradients = {}
    critic_losses: list[float] = []
    inputs = [network.normalize(images)]
    for group in network.groups[:-1]:
        inputs.append(group(inputs[-1]).detach())  # h_i, as it enters critic i and group i + 1
    deeper = network.groups[-1](inputs[-1])  # logits of the exit that a critic learns from
    main = losses_of(deeper, labels, smoothing)
    last = len(network.groups) - 1
    keep(grads, f"groups.{last}", network.groups[-1], mean(main))
    of_exits = [[value.item() for value in main]]
    for index in reversed(range(last)):
        group, critic = network.groups[index], network.critics[index]
        # the group: back-propagate the mean of the critic's cross-entropy through the critic, then through the group
        hidden = inputs[index + 1].clone().requires_grad_()
        (delta,) = torch.autograd.grad(mean(losses_of(critic(hidden), labels, smoothing)), hidden)
        keep(grads, f"groups.{index}", group, (group(inputs[index]) * delta).sum())
        # the critic: a forward and a backward pass of its own
        logits = critic(inputs[index + 1])
        own = losses_of(logits, labels, smoothing)
        goals = of_exits[0 if target == "next" else -1]
        gaps = [torch.abs(value - goal) for value, goal in zip(own, goals, strict=True)]
        if loss.one_sided:
            gaps = [gap if value > goal else 0 * value for gap, value, goal in zip(gaps, own, goals, strict=True)]
        learned = loss.cascade_share * mean(gaps) + (1 - loss.cascade_share) * mean(own)
        if loss.distill:
            pulls = [kl(wanted, said, loss.temperature) for wanted, said in zip(deeper, logits, strict=True)]
            learned = (1 - loss.distill) * learned + loss.distill * mean(pulls)
        if target == "next":
            deeper = logits
        keep(grads, f"critics.{index}", critic, learned)
        critic_losses.insert(0, learned.item())
        of_exits.insert(0, [value.item() for value in own])
    return grads, [sum(values) / len(values) for values in of_exits], critic_losses


def keep(grads: Gradients, prefix: str, module: nn.Module, loss: Tensor) -> None:
    names, parameters = zip(*module.named_parameters(), strict=True)
    for name, grad in zip(names, torch.autograd.grad(loss, parameters), strict=True):
        grads[f"{prefix}.{name}"] = grad


# Networks and batches


def vgg(exits: int, *overrides: str) -> Network:
    """A narrow trunk of the paper in float64, in training mode, with biases and BatchNorm that are not at rest."""
    places = f"critics.after={list(PLACES[exits])}"
    loaded = recipe.load("vgg_cifar10", ["model.width=0.06", "critics.channels=4", places, *overrides])
    network = build(loaded, 5, (3, 8, 8), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)).double().train()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return network


def batch(size: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    images = torch.rand(size, 3, 8, 8, generator=generator, dtype=torch.float64)
    return images, torch.randint(5, (size,), generator=generator)


def network_of_one_pixel() -> Network:
    """The group multiplies a pixel by 1; for a pixel of 1 the critic gives p(0) = 3/4 and main p(0) = 1/4."""
    group, critic, main = nn.Conv2d(1, 1, 1, bias=False), nn.Linear(1, 2, bias=False), nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        group.weight.fill_(1.0)
        critic.weight.copy_(torch.tensor([[math.log(3)], [0.0]]))
        main.weight.copy_(torch.tensor([[0.0], [math.log(3)]]))
    groups = [group, nn.Sequential(nn.Flatten(), main)]
    return Network(nn.Identity(), groups, [nn.Sequential(nn.Flatten(), critic)]).double()


def network_with_ties() -> Network:
    """Three exits that agree to the last bit on an image without a negative number, and differ on others.

    Groups 2 and 3 pass on what is positive, and all exits read it with the same weights.
    """
    generator = torch.Generator().manual_seed(5)
    spread = nn.Conv2d(1, 3, 1, bias=False)
    pass_on = [nn.Conv2d(3, 3, 1, bias=False) for _ in range(2)]
    readers = [nn.Linear(3 * 2 * 2, 4) for _ in range(3)]
    with torch.no_grad():
        spread.weight.uniform_(0.5, 1.5, generator=generator)
        readers[0].weight.normal_(generator=generator)
        for convolution in pass_on:
            nn.init.dirac_(convolution.weight)
        for reader in readers:
            reader.load_state_dict(readers[0].state_dict())
    groups = [
        nn.Sequential(spread, nn.Tanh()),
        nn.Sequential(pass_on[0], nn.ReLU()),
        nn.Sequential(pass_on[1], nn.ReLU(), nn.Flatten(), readers[2]),
    ]
    critics = [nn.Sequential(nn.Flatten(), reader) for reader in readers[:2]]
    return Network(nn.Identity(), groups, critics).double()


def batch_with_ties() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(6)
    images = torch.randn(7, 1, 2, 2, generator=generator, dtype=torch.float64)
    images[[1, 4, 5]] = images[[1, 4, 5]].abs()
    return images, torch.randint(4, (7,), generator=generator)


def gradients(network: Network) -> dict[str, Tensor | None]:
    return {name: parameter.grad for name, parameter in network.named_parameters()}


def step(
    network: Network,
    images: Tensor,
    labels: Tensor,
    loss: CriticLoss = PAPER,
    number: int = 0,
    **options: object,
) -> Gradients:
    """Gradients of everything after one step of the method under test."""
    network.zero_grad(set_to_none=True)
    LocalCritic(network, loss, **options).backward(images, labels, number)
    return gradients(network)


def assert_same(found: dict[str, Tensor | None], expected: Gradients) -> None:
    assert found.keys() == expected.keys()
    for name, grad in expected.items():
        size = grad.abs().max().item()
        assert size > 0, f"{name} shows nothing"
        assert found[name] is not None, name
        gap = (found[name] - grad).abs().max().item()
        assert gap <= 1e-10 * size, f"{name}: {gap / size:.1e}"


# Gradients


LOSSES = [
    CriticLoss("cascade"),
    CriticLoss("cross_entropy"),
    CriticLoss("mix", 0.3),
    CriticLoss("cascade", one_sided=True),
    CriticLoss("cross_entropy", distill=0.4, temperature=0.5),
    CriticLoss("mix", 0.3, distill=1.0),
    CriticLoss("mix", 0.6, one_sided=True, distill=0.7, temperature=2.0),
]


@pytest.mark.parametrize("loss", LOSSES, ids=str)
@pytest.mark.parametrize("target", ["next", "main"])
@pytest.mark.parametrize("overrides", [(), ("critics.batch_norm=true",)], ids=["plain", "batch_norm"])
@pytest.mark.parametrize(("memory", "overlap"), [("fast", False), ("fast", True), ("lean", True)])
def test_every_gradient_is_that_of_two_passes(
    loss: CriticLoss, target: str, overrides: tuple[str, ...], memory: str, overlap: bool
) -> None:
    network = vgg(4, *overrides)
    images, labels = batch()
    expected, exit_losses, critic_losses = gradients_in_two_passes(
        network, images, labels, loss, smoothing=0.1, target=target
    )
    method = LocalCritic(
        network, loss, target=target, update_every=2, label_smoothing=0.1, memory=memory, overlap=overlap
    )
    method.exits.side.enabled = overlap  # the order of work is that of two streams; without CUDA there is one
    of_groups = {name: grad for name, grad in expected.items() if name.startswith("groups")}
    for number in (0, 1, 2):
        network.zero_grad(set_to_none=True)
        losses = method.backward(images, labels, number)
        found = {name: grad for name, grad in gradients(network).items() if grad is not None}
        assert_same(found, of_groups if number == 1 else expected)  # at step 1 the critics do not learn
        assert losses.exits.tolist() == pytest.approx(exit_losses, rel=1e-12)
        assert losses.critics.tolist() == pytest.approx(critic_losses, rel=1e-12)
        assert not losses.exits.requires_grad
        assert not losses.critics.requires_grad


@pytest.mark.parametrize("loss", [CriticLoss("cascade"), CriticLoss("cross_entropy"), CriticLoss("mix", 0.3)], ids=str)
def test_ties_weigh_nothing_to_the_critic_and_all_to_the_group(loss: CriticLoss) -> None:
    network = network_with_ties()
    images, labels = batch_with_ties()
    first, second, main = (sample_losses(logits, labels, 0.0) for logits in network(images))
    assert (first == second).nonzero().flatten().tolist() == [1, 4, 5]
    assert set((second == main).nonzero().flatten().tolist()) >= {1, 4, 5}
    expected, _, _ = gradients_in_two_passes(network, images, labels, loss)
    found = step(network, images, labels, loss)
    for name, grad in expected.items():  # the second gap is all ties: under cascade the second critic rests
        gap = (found[name] - grad).abs().max().item()
        assert gap <= 1e-10 * max(1e-3, grad.abs().max().item()), name
    assert_same({"groups.0.0.weight": found["groups.0.0.weight"]}, {"groups.0.0.weight": expected["groups.0.0.weight"]})


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_ties_of_all_samples_leave_the_critic_without_gradient_and_the_group_with_its_own(dtype: torch.dtype) -> None:
    network = network_with_ties().to(dtype)
    images, labels = batch_with_ties()
    images = images.abs().to(dtype)
    tied = step(network, images, labels, CriticLoss("cascade"))
    plain = step(network, images, labels, CriticLoss("cross_entropy"))
    for name in ("groups.0.0.weight", "groups.1.0.weight"):
        assert torch.equal(tied[name], plain[name])  # dividing by a power of two is exact
    for index in (0, 1):
        assert tied[f"critics.{index}.1.weight"].abs().max().item() < 1e-15
        assert plain[f"critics.{index}.1.weight"].abs().max().item() > 1e-3


@pytest.mark.parametrize(
    ("target", "memory", "alive"),
    [
        ("next", "fast", [0, 1, 1, 1]),
        ("main", "fast", [0, 1, 2, 3]),
        ("next", "lean", [0] * 4),
        ("main", "lean", [0] * 4),
    ],
)
def test_lean_memory_frees_a_group_before_the_next_one_runs(target: str, memory: str, alive: list[int]) -> None:
    network = vgg(4, "critics.head=pooled", "critics.pool_to=1")
    kept: list[weakref.ref[Tensor]] = []
    seen: list[int] = []
    for group in network.groups:
        convolution = next(module for module in group if isinstance(module, nn.Conv2d))
        convolution.register_forward_pre_hook(lambda *_: seen.append(sum(ref() is not None for ref in kept)))
        convolution.register_forward_hook(lambda *args: kept.append(weakref.ref(args[-1])))  # BatchNorm keeps it
    LocalCritic(network, CriticLoss(), target=target, memory=memory).backward(*batch(), 0)
    assert seen == alive


def test_batch_norm_sees_every_batch_once() -> None:
    network = vgg(4, "critics.batch_norm=true")
    step(network, *batch())
    counters = [buffer.item() for name, buffer in network.named_buffers() if name.endswith("num_batches_tracked")]
    assert counters == [1] * (11 + 3)


def test_a_case_worked_out_by_hand() -> None:
    # The critic's loss is ln 4/3 and main's ln 4: the critic's gap is negative, its sign -1.
    network = network_of_one_pixel()
    group, critic, main = network.groups[0], network.critics[0][1], network.groups[1][1]
    ln3 = math.log(3)
    losses = LocalCritic(network, CriticLoss()).backward(torch.ones(1, 1, 1, 1).double(), torch.tensor([0]), 0)
    assert group.weight.grad.item() == pytest.approx(
        -ln3 / 4
    )  # (p - target) x critic's weights: (-1/4, 1/4) x (ln 3, 0)
    assert critic.weight.grad.flatten().tolist() == pytest.approx([0.25, -0.25])  # the sign turned it round
    assert main.weight.grad.flatten().tolist() == pytest.approx([-0.75, 0.75])
    assert losses.exits.tolist() == pytest.approx([math.log(4 / 3), math.log(4)])
    assert losses.critics.tolist() == pytest.approx([ln3])


# What may not reach a group


def scaled(*prefixes: str) -> Callable[[Network], None]:
    """Makes everything under these names another network."""

    def change(network: Network) -> None:
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if name.startswith(prefixes):
                    parameter.mul_(1.7).add_(0.05)

    return change


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_no_later_group_and_no_later_critic_reaches_a_group(index: int, dtype: torch.dtype) -> None:
    images, labels = batch()
    network = vgg(4).to(dtype)
    before = step(network, images.to(dtype), labels)
    later = [f"groups.{i}." for i in range(index + 1, 4)] + [f"critics.{i}." for i in range(index + 1, 3)]
    scaled(*later)(network)
    after = step(network, images.to(dtype), labels)
    kept = [name for name in before if name.startswith(tuple(f"groups.{i}." for i in range(index + 1)))]
    assert kept
    assert [name for name in kept if not torch.equal(before[name], after[name])] == []
    changed = [name for name in before if name.startswith(tuple(later))]
    assert all(not torch.equal(before[name], after[name]) for name in changed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_a_critic_learns_from_does_not_reach_its_group(dtype: torch.dtype) -> None:
    images, labels = batch()
    network = vgg(4).to(dtype)
    images = images.to(dtype)
    cascade = step(network, images, labels, CriticLoss("cascade"))
    cross_entropy = step(network, images, labels, CriticLoss("cross_entropy"))
    half = step(network, images, labels, CriticLoss("mix", 0.5))  # weights 1 and 2^-60
    resting = step(network, images, labels, number=1, update_every=2)
    for name in [name for name in cascade if name.startswith("groups")]:
        assert torch.equal(cascade[name], cross_entropy[name]), name
        assert torch.equal(cascade[name], half[name]), name
        assert torch.equal(cascade[name], resting[name]), name
    critics = [name for name in cascade if name.startswith("critics")]
    assert all(not torch.equal(cascade[name], cross_entropy[name]) for name in critics)
    assert all(not torch.equal(cascade[name], half[name]) for name in critics)


def test_no_exit_depends_on_another_ones_critic() -> None:
    images, labels = batch()
    network = vgg(4)
    before = step(network, images, labels)
    scaled("critics.0.", "critics.1.")(network)
    after = step(network, images, labels)
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {name for name in before if name.startswith(("groups.2.", "groups.3.", "critics.2."))}


# Precision


def test_losses_stay_in_float32_under_autocast() -> None:
    network = vgg(3).float()
    images, labels = batch()
    with torch.autocast("cpu", torch.bfloat16):
        assert network(images.float())[0].dtype == torch.bfloat16
        losses = LocalCritic(network, CriticLoss()).backward(images.float(), labels, 0)
    assert losses.exits.dtype == losses.critics.dtype == torch.float32
    for name, grad in gradients(network).items():
        assert grad.dtype == torch.float32, name
        assert grad.isfinite().all(), name
        assert grad.any(), name


@pytest.mark.parametrize(
    ("loss", "memory", "compiled"),
    [
        (CriticLoss("cascade"), "fast", 4 + 3),
        (CriticLoss("cascade"), "lean", 4),
        (CriticLoss("cross_entropy"), "lean", 4 + 3),
        (CriticLoss("cross_entropy", distill=0.5), "fast", 4),
    ],
    ids=str,
)
def test_what_two_passes_go_through_is_not_compiled(loss: CriticLoss, memory: str, compiled: int) -> None:
    assert len(list(LocalCritic(vgg(4), loss, memory=memory).parts())) == compiled


def test_a_critic_that_does_not_read_its_input_is_a_slip() -> None:
    class Deaf(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(2))

        def forward(self, hidden: Tensor) -> Tensor:
            return self.bias.expand(len(hidden), 2)

    network = Network(nn.Identity(), [nn.Conv2d(1, 1, 1), nn.Sequential(nn.Flatten(), nn.Linear(1, 2))], [Deaf()])
    with pytest.raises(ValueError, match="does not read its input"):
        LocalCritic(network, CriticLoss()).backward(torch.ones(2, 1, 1, 1), torch.tensor([0, 1]), 0)
