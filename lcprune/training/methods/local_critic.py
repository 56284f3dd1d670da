"""Local critic training: every layer group learns from the loss that its own critic estimates (the paper's method).

Source: Lee and Lee 2018, arXiv:1805.01128, Eq. (1) to (7).

The gradients of a step. With h_i the output of group i, L_i its critic's cross-entropy and w_j a critic's weight on
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

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lcprune.models import AveragePool, Network, mixes_samples
from lcprune.training.methods.base import Losses, sample_losses
from lcprune.training.methods.critic_loss import CriticLoss, ExitOutput
from lcprune.training.methods.streams import SideStream

ALMOST_ZERO = 2.0**-60
"""Stands for a weight of zero; a power of two, so that dividing it out again is exact."""


@dataclass(frozen=True)
class _Stage:
    """A layer group and its critic, cut behind the critic's pool."""

    group: nn.Module
    pool: nn.Module
    critic: nn.Module
    """What comes after the pool."""
    two_passes: bool
    hand_on: nn.Module
    """The max pool at the head of the next group."""


@dataclass(frozen=True)
class _Exit:
    """One exit of the forward pass, waiting for the loss of the next one."""

    stage: _Stage
    pooled: Tensor
    """What the critic reads, with the group's graph, ``(N, C, H, W)``."""
    leaf: Tensor
    """The same values, cut off from the group."""
    output: ExitOutput
    """What the critic says, with its graph."""


class LocalCritic:
    """Local critic training, with no backward pass from a later group into an earlier one."""

    def __init__(
        self,
        network: Network,
        loss: CriticLoss,
        *,
        target: Literal["next", "main"] = "next",
        update_every: int = 1,
        label_smoothing: float = 0.0,
        memory: Literal["fast", "lean"] = "fast",
        overlap: bool = False,
    ) -> None:
        """How critics learn.

        Args:
            network: With at least one critic.
            loss: Of every critic.
            target: What a critic is held against: the next exit, or main (`CriticTraining`).
            update_every: The critics learn at every n-th step.
            label_smoothing: Share of the target spread over all classes.
            memory: ``lean`` frees what a group keeps for its gradients before the next group runs.
            overlap: On a CUDA device, a critic runs on a second stream while the next group runs on the first.
        """
        self._normalize = network.normalize
        two_passes = memory == "lean" or not loss.is_weighted
        heads, groups = zip(*(_split(group, nn.MaxPool2d) for group in network.groups[1:]), strict=True)
        self._stages = [
            _Stage(group, *_split(critic, AveragePool), two_passes or mixes_samples(critic), head)
            for group, critic, head in zip((network.groups[0], *groups[:-1]), network.critics, heads, strict=True)
        ]
        self._last_group = groups[-1]
        self._loss = loss
        self._target = target
        self._update_every = update_every
        self._label_smoothing = label_smoothing
        self._side = SideStream(overlap)

    def parts(self) -> Iterator[nn.Module]:
        """See `Method`. Compiled parts keep nothing for a second pass, so critics that take two are not among them."""
        for stage in self._stages:
            yield stage.group
            if not (stage.two_passes and self._loss.waits):
                yield stage.critic
        yield self._last_group

    def backward(self, images: Tensor, labels: Tensor, step: int) -> Losses:
        """See `Method`. A group's backward pass runs as soon as the losses that it needs are known."""
        critics_learn = step % self._update_every == 0
        exit_losses, critic_losses = [], []
        hidden = self._normalize(images)
        waiting: list[_Exit] = []  # for their target
        for stage in self._stages:
            output = stage.group(hidden)  # (N, C_i, H_i, W_i), with the graph of this group alone
            hidden = stage.hand_on(output.detach())
            if waiting and self._side.enabled:
                self._train_group_early(waiting[-1], critics_learn)  # its critic ran beside this group
            own = self._read(stage, stage.pool(output), labels)
            del output
            exit_losses.append(own.output.losses.detach())
            if waiting and self._target == "next":
                critic_losses.append(self._learn(waiting.pop(), own.output.detach(), critics_learn))
            if not self._side.enabled:
                self._train_group_early(own, critics_learn)
            waiting.append(own)
        main = self._output(self._last_group(hidden), labels)
        exit_losses.append(main.losses.detach())
        if self._side.enabled:
            self._train_group_early(waiting[-1], critics_learn)
        critic_losses += [self._learn(own, main.detach(), critics_learn) for own in waiting]
        if main.losses.requires_grad:  # unless the last group is frozen
            main.losses.mean().backward()
        self._side.join(*exit_losses, *critic_losses)
        return Losses(torch.stack(exit_losses).mean(dim=1), torch.stack(critic_losses))

    def _read(self, stage: _Stage, pooled: Tensor, labels: Tensor) -> _Exit:
        """The critic's forward pass."""
        with self._side.beside(pooled, labels):
            leaf = pooled.detach().requires_grad_()
            return _Exit(stage, pooled, leaf, self._output(stage.critic(leaf), labels))

    def _output(self, logits: Tensor, labels: Tensor) -> ExitOutput:
        return ExitOutput(logits, sample_losses(logits, labels, self._label_smoothing))

    def _train_group_early(self, own: _Exit, critics_learn: bool) -> None:
        """Gradients of the group, where they need nothing of the next exit."""
        if critics_learn and self._loss.waits and not own.stage.two_passes:
            return
        with self._side.beside():
            if critics_learn and not self._loss.waits:
                own.output.losses.mean().backward()  # every weight is 1, so the critic's gradient comes with it
                delta = _gradient(own.leaf)
            else:
                (delta,) = torch.autograd.grad(own.output.losses.mean(), own.leaf, retain_graph=critics_learn)
        self._train_group(own, delta)

    def _learn(self, own: _Exit, target: ExitOutput, critics_learn: bool) -> Tensor:
        """Gradients of the critic, and of its group where both come in one pass; the critic's mean loss."""
        learns = critics_learn and self._loss.waits
        in_two_passes = learns and own.stage.two_passes
        delta = None
        with self._side.beside(target.logits, target.losses):
            loss = self._loss.of_samples(own.output if in_two_passes else own.output.detach(), target).mean()
            if in_two_passes:
                loss.backward(inputs=list(own.stage.critic.parameters()))
            elif learns:
                delta = _one_pass(own, self._loss.weights(own.output, target))
        if delta is not None:
            self._train_group(own, delta)
        return loss.detach()

    def _train_group(self, own: _Exit, delta: Tensor) -> None:
        self._side.join(delta)
        if own.pooled.requires_grad:  # unless the group is frozen
            own.pooled.backward(delta)


def _split(module: nn.Module, kind: type[nn.Module]) -> tuple[nn.Module, nn.Module]:
    """The first layer, if it is of `kind`, and the rest."""
    if isinstance(module, nn.Sequential) and isinstance(module[0], kind):
        return module[0], module[1:]
    return nn.Identity(), module


def _one_pass(own: _Exit, weights: Tensor) -> Tensor:
    """delta_i, ``(N, C, H, W)``; the critic's gradient of the losses weighted by `weights`, ``(N,)``, is left in it."""
    weights = torch.where(weights == 0, ALMOST_ZERO, weights)
    (own.output.losses * weights).mean().backward()
    return _gradient(own.leaf).mul_(weights.reciprocal().reshape(-1, 1, 1, 1))


def _gradient(leaf: Tensor) -> Tensor:
    if leaf.grad is None:
        raise ValueError("the critic does not read its input")
    return leaf.grad
