"""One exit of local critic training: the gradients of a layer group and of its critic.

With h_i the output of group i, L_i its critic's cross-entropy and w_j a critic's weight on
sample j, two gradients are wanted from critic i: delta_i = d mean_j(L_i^j) / d h_i for the group (Eq. 5), and
d mean_j(w_j L_i^j) / d(critic's weights) for the critic; w_j = sign(L_i^j - L_{i+1}^j) for the L1 loss of Eq. (7).
A critic that treats each sample by itself gives both in one backward pass: back-propagate mean_j(w_j L_i^j); the row of
sample j that arrives at h_i is then w_j delta_i^j, and a division by w_j leaves delta_i. A weight of zero would lose
that row, so it becomes 2^-60: nothing to the critic, and divided out again for the group.

One pass has to wait for L_{i+1}, and so for the forward pass of the next group. Two passes need not: the group's comes
first and frees what the group kept for it, the critic's follows when L_{i+1} is known. A critic that mixes samples
(BatchNorm) needs two in any case, and so does distillation, whose gradient is no weight times that of L_i;
``memory="lean"`` takes two everywhere.

The average pool at the head of a critic is differentiated with the group. The gradient that waits between the two
graphs is then as small as what the pool gives, and the full one lives no longer than the group's backward pass needs.
For the same reason a max pool at the head of the next group runs before that: what stays of the group's output is a
quarter.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lcprune.models import AveragePool, Network, mixes_samples
from lcprune.training.methods.base import Wrap, as_it_is, sample_losses
from lcprune.training.methods.critic_loss import CriticLoss, ExitOutput
from lcprune.training.methods.streams import SideStream

ALMOST_ZERO = 2.0**-60
"""Stands for a weight of zero; a power of two, so that dividing it out again is exact."""


@dataclass(frozen=True)
class Stage:
    """A layer group and its critic, cut behind the critic's pool."""

    group: nn.Module
    """What is called: with what is put around it."""
    pool: nn.Module
    critic: nn.Module
    """What comes after the pool, as it is called where it learns: with what is put around it."""
    two_passes: bool
    next_pool: nn.Module
    """The max pool at the head of the next group."""
    plain_group: nn.Module
    """With nothing around it."""
    plain_critic: nn.Module
    """Likewise; it is called where the critic does not learn."""


def stages_of(network: Network, *, two_passes: bool, wrap: Wrap = as_it_is) -> tuple[list[Stage], nn.Module]:
    """Every layer group with a critic, shallow first, and the last group, without the pool that comes before it.

    Nothing is around the last group.

    Args:
        network: With at least one critic.
        two_passes: Everywhere, and not only where a critic needs them.
        wrap: Goes around every group but the last, and around every critic where it learns.
    """
    heads, groups = zip(*(_split(group, nn.MaxPool2d) for group in network.groups[1:]), strict=True)
    stages = []
    for group, whole_critic, head in zip((network.groups[0], *groups[:-1]), network.critics, heads, strict=True):
        pool, critic = _split(whole_critic, AveragePool)
        mixes = two_passes or mixes_samples(critic)
        stages.append(Stage(wrap(group), pool, wrap(critic), mixes, head, group, critic))
    return stages, groups[-1]


@dataclass(frozen=True)
class Exit:
    """One exit of the forward pass, waiting for the loss of the next one."""

    stage: Stage
    pooled: Tensor
    """What the critic reads, with the group's graph, ``(N, C, H, W)``."""
    leaf: Tensor
    """The same values, cut off from the group."""
    output: ExitOutput
    """Of the critic, with its graph."""


class LocalExits:
    """What every exit does: read a layer group's output, train the group, let the critic learn."""

    def __init__(self, loss: CriticLoss, label_smoothing: float, side: SideStream) -> None:
        """`loss` is that of every critic; critics run on `side`."""
        self.loss = loss
        self.side = side
        self._label_smoothing = label_smoothing

    def read(self, stage: Stage, pooled: Tensor, labels: Tensor, critics_learn: bool) -> Exit:
        """The critic's forward pass."""
        critic = stage.critic if critics_learn else stage.plain_critic
        with self.side.beside(pooled, labels):
            leaf = pooled.detach().requires_grad_()
            return Exit(stage, pooled, leaf, self.output(critic(leaf), labels))

    def output(self, logits: Tensor, labels: Tensor) -> ExitOutput:
        """Logits ``(N, classes)`` and losses of an exit."""
        return ExitOutput(logits, sample_losses(logits, labels, self._label_smoothing))

    def train_group_early(self, own: Exit, critics_learn: bool) -> None:
        """Gradients of the group, where they need nothing of the next exit."""
        if critics_learn and self.loss.waits and not own.stage.two_passes:
            return
        with self.side.beside():
            if critics_learn and not self.loss.waits:
                own.output.losses.mean().backward()  # every weight is 1, so the critic's gradient comes with it
                delta = _gradient(own.leaf)
            else:
                (delta,) = torch.autograd.grad(own.output.losses.mean(), own.leaf, retain_graph=critics_learn)
        self._train_group(own, delta)

    def learn(self, own: Exit, target: ExitOutput, critics_learn: bool) -> Tensor:
        """Gradients of the critic, and of its group where both come in one pass; the critic's mean loss."""
        learns = critics_learn and self.loss.waits
        in_two_passes = learns and own.stage.two_passes
        delta = None
        with self.side.beside(target.logits, target.losses):
            loss = self.loss.of_samples(own.output if in_two_passes else own.output.detach(), target).mean()
            if in_two_passes:
                loss.backward(inputs=list(own.stage.critic.parameters()))
            elif learns:
                delta = _one_pass(own, self.loss.weights(own.output, target))
        if delta is not None:
            self._train_group(own, delta)
        return loss.detach()

    def _train_group(self, own: Exit, delta: Tensor) -> None:
        self.side.join(delta)
        if own.pooled.requires_grad:  # unless the group is frozen
            own.pooled.backward(delta)


def _split(module: nn.Module, kind: type[nn.Module]) -> tuple[nn.Module, nn.Module]:
    """The first layer, if it is of `kind`, and the rest."""
    if isinstance(module, nn.Sequential) and isinstance(module[0], kind):
        return module[0], module[1:]
    return nn.Identity(), module


def _one_pass(own: Exit, weights: Tensor) -> Tensor:
    """delta_i, ``(N, C, H, W)``; the critic's gradient of the losses weighted by `weights`, ``(N,)``, is left in it."""
    weights = torch.where(weights == 0, ALMOST_ZERO, weights)
    (own.output.losses * weights).mean().backward()
    return _gradient(own.leaf).mul_(weights.reciprocal().reshape(-1, 1, 1, 1))


def _gradient(leaf: Tensor) -> Tensor:
    if leaf.grad is None:
        raise ValueError("the critic does not read its input")
    return leaf.grad
