"""Layer parallel: every process has consecutive layer groups, and none waits for a gradient of another.

For every batch a process sends the output of its last group to the next process. That one sends the losses of the
samples at its first exit back, which the critic at the cut needs (Eq. 7). They depend on the forward pass of the next
process only; meanwhile the first process runs its group's backward pass.

With a staleness of k the critic at a cut learns from a batch exactly k steps late, from the losses of both exits on
that batch. No process waits as long as the next one is at most k steps behind, and the result depends on where the
network is cut, but not on the speed of the processes. Until then the critic's graph is kept, with the weights of its
forward pass.

Source: Lee and Lee 2018, arXiv:1805.01128, Section 3; the staleness is an addition.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer

from lcprune.training.methods.base import Losses
from lcprune.training.methods.critic_loss import ExitOutput
from lcprune.training.methods.local_critic import LocalCritic
from lcprune.training.methods.local_exits import Exit, Stage, compilable
from lcprune.training.parallel.messages import Receiver, Sender


@dataclass
class Links:
    """Connections of a process to its neighbours; None if there is none, or nothing is sent."""

    hidden_in: Receiver | None = None
    hidden_out: Sender | None = None
    losses_in: Receiver | None = None
    """Of the exit after the cut; None if critics do not need it."""
    losses_out: Sender | None = None


@dataclass(frozen=True)
class _Late:
    """The forward pass of a critic at a cut that has not learnt from it yet."""

    step: int
    own: Exit
    weights: Sequence[Tensor]
    """Weights of the critic at that step."""
    learns: bool


class LayerParallel:
    """Local critic training of the layer groups of one process; a `Method`.

    `Losses` has the losses of its own exits and critics. The loss of the critic at the cut is that of the batch
    `staleness` steps before; in the first steps of a run it is 0.
    """

    def __init__(
        self,
        whole: LocalCritic,
        held: range,
        links: Links,
        *,
        staleness: int = 0,
        on_gradient: Callable[[Tensor], None] = lambda weight: None,
    ) -> None:
        """Takes the layer groups `held` from `whole`.

        Args:
            whole: The method for all layer groups, with the target ``next`` and without distillation.
            held: Layer groups of this process, from 0.
            links: To the previous and the next process.
            staleness: By how many steps the critic at the cut learns late.
            on_gradient: Called with each weight whose gradient is set without a backward pass: those of the critic at
                the cut.

        Raises:
            ValueError: If critics distil: logits are not sent.
        """
        if whole.exits.loss.distill:
            raise ValueError("critics that distil need the logits of the next exit")
        self._stages = whole.stages[held.start : held.stop]
        self._last_group = whole.last_group if held.stop > len(whole.stages) else None
        self._cut: Stage | None = None
        if self._last_group is None:  # the group before a cut does not wait for the next exit
            self._stages[-1] = self._cut = replace(self._stages[-1], two_passes=True)
        self._normalize = whole.normalize
        self._links = links
        self._exits = whole.exits
        self._staleness = staleness
        self._update_every = whole.update_every
        self._on_gradient = on_gradient
        self._late: deque[_Late] = deque()
        self._learnt_early: deque[Tensor] = deque()  # losses that `drain` computed before they were due

    def parts(self) -> Iterator[nn.Module]:
        """See `Method`."""
        return compilable(self._stages, self._last_group, self._exits.loss)

    def backward(self, images: Tensor, labels: Tensor, step: int) -> Losses:
        """See `Method`; only the process with the first group uses `images`.

        Raises:
            PeerError: If a neighbour does not answer.
        """
        learns = step % self._update_every == 0
        links = self._links
        hidden = self._normalize(images) if links.hidden_in is None else links.hidden_in.receive(step)
        exits: list[Tensor] = []
        critics: list[Tensor] = []
        waiting: Exit | None = None  # for the loss of its target
        for stage in self._stages:
            output = stage.group(hidden)  # (N, C_i, H_i, W_i), with the graph of this group alone
            hidden = stage.next_pool(output.detach())
            if stage is self._cut and links.hidden_out is not None:
                links.hidden_out.send(step, hidden)
                hidden = hidden.new_empty(0)  # not used here any more: frees its memory for the backward pass
            own, weights = self._read(stage, stage.pool(output), labels)
            del output
            self._add_losses(step, own.output, exits)
            if waiting is not None:
                critics.append(self._exits.learn(waiting, own.output.detach(), learns))
            self._exits.train_group_early(own, learns)
            waiting = own
        if self._last_group is not None:
            main = self._exits.output(self._last_group(hidden), labels)
            self._add_losses(step, main, exits)
            if waiting is not None:
                critics.append(self._exits.learn(waiting, main.detach(), learns))
            if main.losses.requires_grad:  # unless the last group is frozen
                main.losses.mean().backward()
        elif waiting is not None and links.losses_in is None:
            critics.append(self._exits.learn(waiting, waiting.output.detach(), learns))
        elif waiting is not None:
            self._late.append(_Late(step, waiting, weights, learns))
            critics.append(self._next_loss())
        return Losses(torch.stack(exits).mean(dim=1), torch.stack([*critics, exits[-1].mean()])[:-1])

    def drain(self, optimizers: Sequence[Optimizer]) -> None:
        """Makes the critic at the cut learn from all batches so far, as a checkpoint has no pending batches."""
        while self._late:
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            self._learnt_early.append(self._learn())
            for optimizer in optimizers:
                optimizer.step()  # of that critic alone: nothing else has a gradient

    def forget(self) -> None:
        """Drops all pending batches, when a run goes back to a checkpoint."""
        self._late.clear()
        self._learnt_early.clear()

    def close(self) -> None:
        """Waits until all messages have arrived."""
        for sender in (self._links.hidden_out, self._links.losses_out):
            if sender is not None:
                sender.close()

    def _read(self, stage: Stage, pooled: Tensor, labels: Tensor) -> tuple[Exit, Sequence[Tensor]]:
        """The critic's forward pass, and the weights it used: copies, if they change before it learns."""
        if stage is not self._cut or self._links.losses_in is None:
            return self._exits.read(stage, pooled, labels), ()
        weights: dict[str, Tensor] = dict(stage.critic.named_parameters())
        if self._staleness:
            weights = {name: weight.detach().clone().requires_grad_() for name, weight in weights.items()}
        leaf = pooled.detach().requires_grad_()
        output = self._exits.output(functional_call(stage.critic, weights, (leaf,)), labels)
        return Exit(stage, pooled, leaf, output), tuple(weights.values())

    def _add_losses(self, step: int, own: ExitOutput, exits: list[Tensor]) -> None:
        """Adds the losses of an exit to `exits`; sends those of the first one to the previous process."""
        losses = own.losses.detach()
        if not exits and self._links.losses_out is not None:
            self._links.losses_out.send(step, losses)
        exits.append(losses)

    def _next_loss(self) -> Tensor:
        """The mean loss of the critic at the cut, `staleness` steps late; it learns from that batch."""
        if len(self._late) > self._staleness:
            self._learnt_early.append(self._learn())
        return self._learnt_early.popleft() if self._learnt_early else self._late[-1].own.output.losses.new_zeros(())

    def _learn(self) -> Tensor:
        """Gradients of the critic at the cut from the oldest pending batch; returns its mean loss."""
        late = self._late.popleft()
        receiver = self._links.losses_in
        if receiver is None:
            raise ValueError("there is no pending batch")
        own = late.own.output
        loss = self._exits.loss.of_samples(own, ExitOutput(own.logits, receiver.receive(late.step))).mean()
        if late.learns:
            gradients = torch.autograd.grad(loss, late.weights)
            for weight, gradient in zip(late.own.stage.critic.parameters(), gradients, strict=True):
                weight.grad = gradient
                self._on_gradient(weight)
        return loss.detach()
