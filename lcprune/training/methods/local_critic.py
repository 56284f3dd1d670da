"""Local critic training: every layer group learns from the loss that its own critic estimates (the paper's method).

Source: Lee and Lee 2018, arXiv:1805.01128, Eq. (1) to (7).

How the gradients of a step come about stands in `local_exits`.
"""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from lcprune.models import Network
from lcprune.training.methods.base import Losses, Wrap, as_it_is
from lcprune.training.methods.critic_loss import CriticLoss
from lcprune.training.methods.local_exits import Exit, LocalExits, stages_of
from lcprune.training.methods.streams import SideStream


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
            target: What a critic is held against: the next exit, or main (`CriticTraining`).
            update_every: The critics learn at every n-th step.
            label_smoothing: Share of the target spread over all classes.
            memory: ``lean`` frees what a group keeps for its gradients before the next group runs.
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
            hidden = stage.hand_on(output.detach())
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
