"""Local critic training: every layer group minimises the loss that its own critic estimates (the paper's method).

Source: Lee and Lee 2018, arXiv:1805.01128, Eq. (1) to (7).

Critic training (``method: critic``) is the same without the cascade. Every critic estimates the loss of main itself:

    L_ci = l(L_i, L_K)        instead of Eq. (7), L_ci = l(L_i, L_{i+1})

Group i is still trained with delta_i = d L_i / d h_i (Eq. 5), and l is given by `critics.loss`, with main instead of
the next exit. Every critic has to wait for main.

Source: Czarnecki et al. 2017, arXiv:1706.04859, where a critic predicts the loss of a network from a hidden layer; Lee
and Lee 2018, arXiv:1805.01128, Section 3.1, which compares with it and calls its critics modules "to estimate the main
network's output". They are assumed to be of the same kind as the paper's own: a critic's estimate is the loss of
its logits.

`local_exits` describes how the gradients of a step are computed.
"""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from lcprune.models import Network
from lcprune.recipe import Recipe
from lcprune.specs import METHODS
from lcprune.training.methods.base import Losses
from lcprune.training.methods.critic_loss import CriticLoss, critic_loss
from lcprune.training.methods.local_exits import Exit, LocalExits, SideStream, compilable, stages_of


def build(recipe: Recipe, network: Network, iterations: int | None) -> "LocalCritic":
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
    ) -> None:
        """How critics learn.

        Args:
            network: With at least one critic.
            loss: Of every critic.
            target: The exit whose loss a critic estimates: the next one, or main (critic training).
            update_every: The critics learn at every n-th step.
            label_smoothing: Share of the target spread over all classes.
            memory: ``lean`` frees the saved tensors of a group before the next group runs. If the target is main,
                ``fast`` keeps those of all groups until main's loss is known.
            overlap: On a CUDA device, a critic runs on a second stream while the next group runs on the first.
        """
        self.normalize = network.normalize
        two_passes = memory == "lean" or not loss.is_weighted
        self.stages, self.last_group = stages_of(network, two_passes=two_passes)
        self.exits = LocalExits(loss, label_smoothing, SideStream(overlap))
        self.update_every = update_every
        self._target = target

    def parts(self) -> Iterator[nn.Module]:
        """See `Method`."""
        return compilable(self.stages, self.last_group, self.exits.loss)

    def backward(self, images: Tensor, labels: Tensor, step: int) -> Losses:
        """See `Method`. A group's backward pass runs as soon as the losses that it needs are known."""
        critics_learn = step % self.update_every == 0
        exit_losses, critic_losses = [], []
        side = self.exits.side
        hidden = self.normalize(images)
        waiting: list[Exit] = []  # for the loss of their target
        for stage in self.stages:
            output = stage.group(hidden)  # (N, C_i, H_i, W_i), with the graph of this group alone
            hidden = stage.next_pool(output.detach())
            if waiting and side.enabled:
                self.exits.train_group_early(waiting[-1], critics_learn)  # its critic ran beside this group
            own = self.exits.read(stage, stage.pool(output), labels)
            del output
            exit_losses.append(own.output.losses.detach())
            if waiting and self._target == "next":
                critic_losses.append(self.exits.learn(waiting.pop(), own.output.detach(), critics_learn))
            if not side.enabled:
                self.exits.train_group_early(own, critics_learn)
            waiting.append(own)
        main = self.exits.output(self.last_group(hidden), labels)
        exit_losses.append(main.losses.detach())
        if side.enabled:
            self.exits.train_group_early(waiting[-1], critics_learn)
        critic_losses += [self.exits.learn(own, main.detach(), critics_learn) for own in waiting]
        if main.losses.requires_grad:  # unless the last group is frozen
            main.losses.mean().backward()
        side.join(*exit_losses, *critic_losses)
        return Losses(torch.stack(exit_losses).mean(dim=1), torch.stack(critic_losses))
