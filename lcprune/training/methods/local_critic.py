"""Local critic training: every layer group learns from the loss that its own critic estimates (the paper's method).

Source: Lee and Lee 2018, arXiv:1805.01128, Eq. (1) to (7).

Critic training (``method: critic``) is the same without the cascade. Every critic estimates the loss of main itself:

    L_ci = l(L_i, L_K)        in the place of Eq. (7), L_ci = l(L_i, L_{i+1})

Group i is still trained with delta_i = d L_i / d h_i (Eq. 5), and l is what `critics.loss` says, with main in the place
of the next exit. Every critic has to wait for main.

Source: Czarnecki et al. 2017, arXiv:1706.04859, where a critic predicts the loss of a network from a hidden layer; Lee
and Lee 2018, arXiv:1805.01128, Section 3.1, which compares with it and calls its critics modules "to estimate the main
network's output". They are taken to be of the same kind as the paper's own: the loss of a critic's logits is its
estimate.

How the gradients of a step come about stands in `local_exits`.
"""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from lcprune.models import Network
from lcprune.recipe import Recipe
from lcprune.specs import METHODS
from lcprune.training.methods.base import Losses, Wrap, as_it_is
from lcprune.training.methods.critic_loss import CriticLoss, critic_loss
from lcprune.training.methods.local_exits import Exit, LocalExits, stages_of
from lcprune.training.methods.streams import SideStream


def build(recipe: Recipe, network: Network, iterations: int | None, wrap: Wrap) -> "LocalCritic":
    """See `Build`."""
    critics, train = recipe.critics, recipe.train
    return LocalCritic(
        network,
        critic_loss(critics),
        target=METHODS[train.method].target,
        update_every=critics.update_every,
        label_smoothing=train.label_smoothing,
        memory=train.memory,
        overlap=train.overlap,
        wrap=wrap,
    )


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
        wrap: Wrap = as_it_is,
    ) -> None:
        """How critics learn.

        Args:
            network: With at least one critic.
            loss: Of every critic.
            target: What a critic is held against: the next exit, or main (critic training).
            update_every: The critics learn at every n-th step.
            label_smoothing: Share of the target spread over all classes.
            memory: ``lean`` frees what a group keeps for its gradients before the next group runs. Where the target is
                main, ``fast`` keeps that of all groups until main's loss is known.
            overlap: On a CUDA device, a critic runs on a second stream while the next group runs on the first.
            wrap: Goes around every group, and around every critic where it learns.
        """
        self._normalize = network.normalize
        two_passes = memory == "lean" or not loss.is_weighted
        self._stages, self._plain_last_group = stages_of(network, two_passes=two_passes, wrap=wrap)
        self._last_group = wrap(self._plain_last_group)
        self._exits = LocalExits(loss, label_smoothing, SideStream(overlap))
        self._target = target
        self._update_every = update_every

    def parts(self) -> Iterator[nn.Module]:
        """See `Method`. Compiled parts keep nothing for a second pass, so critics that take two are not among them."""
        for stage in self._stages:
            yield stage.plain_group
            if not (stage.two_passes and self._exits.loss.waits):
                yield stage.plain_critic
        yield self._plain_last_group

    def backward(self, images: Tensor, labels: Tensor, step: int) -> Losses:
        """See `Method`. A group's backward pass runs as soon as the losses that it needs are known."""
        critics_learn = step % self._update_every == 0
        exit_losses, critic_losses = [], []
        side = self._exits.side
        hidden = self._normalize(images)
        waiting: list[Exit] = []  # for their target
        for stage in self._stages:
            output = stage.group(hidden)  # (N, C_i, H_i, W_i), with the graph of this group alone
            hidden = stage.next_pool(output.detach())
            if waiting and side.enabled:
                self._exits.train_group_early(waiting[-1], critics_learn)  # its critic ran beside this group
            own = self._exits.read(stage, stage.pool(output), labels, critics_learn)
            del output
            exit_losses.append(own.output.losses.detach())
            if waiting and self._target == "next":
                critic_losses.append(self._exits.learn(waiting.pop(), own.output.detach(), critics_learn))
            if not side.enabled:
                self._exits.train_group_early(own, critics_learn)
            waiting.append(own)
        main = self._exits.output(self._last_group(hidden), labels)
        exit_losses.append(main.losses.detach())
        if side.enabled:
            self._exits.train_group_early(waiting[-1], critics_learn)
        critic_losses += [self._exits.learn(own, main.detach(), critics_learn) for own in waiting]
        if main.losses.requires_grad:  # unless the last group is frozen
            main.losses.mean().backward()
        side.join(*exit_losses, *critic_losses)
        return Losses(torch.stack(exit_losses).mean(dim=1), torch.stack(critic_losses))
