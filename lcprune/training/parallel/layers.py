"""Layer parallel: every process holds consecutive layer groups, and none waits for a gradient of another.

Between two processes go, for every batch, the output of the first one's last group (forward, at once) and the losses of
the samples at the second one's first exit (back), which the critic at the cut is held against (Eq. 7). The losses need
nothing but the second one's forward pass, and the first one runs its group's backward pass meanwhile.

With a staleness of k the critic at a cut learns from a batch exactly k steps late, from the losses that both exits had
on that batch: nothing waits as long as a process is no more than k steps behind the one before it, and the result does
not depend on how fast each was. Until then its graph is kept, with the weights that it was made with.

Source: Lee and Lee 2018, arXiv:1805.01128, Section 3; the staleness is ours.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer

from lcprune.models import Network
from lcprune.training.methods.base import Losses, Wrap, as_it_is
from lcprune.training.methods.critic_loss import CriticLoss, ExitOutput
from lcprune.training.methods.local_exits import Exit, LocalExits, Stage, stages_of
from lcprune.training.methods.streams import SideStream
from lcprune.training.parallel.messages import Receiver, Sender


@dataclass
class Links:
    """What connects a process with its neighbours; None where there is none, or nothing goes."""

    hidden_in: Receiver | None = None
    hidden_out: Sender | None = None
    losses_in: Receiver | None = None
    """Of the exit behind the cut; None where critics do not wait for it."""
    losses_out: Sender | None = None


@dataclass(frozen=True)
class _Late:
    """A critic at a cut that has not learnt from a batch yet."""

    step: int
    own: Exit
    weights: Sequence[Tensor]
    """Of the critic, at that step."""
    learns: bool


class LayerParallel:
    """The part of local critic training that one process does; a `Method` of its layer groups alone.

    `Losses.exits` are those of its own exits, `Losses.critics` those of its own critics. The loss of the critic at the
    cut is that of the batch `staleness` steps before; in the first steps of a run it is 0.
    """

    def __init__(
        self,
        network: Network,
        held: range,
        links: Links,
        loss: CriticLoss,
        *,
        staleness: int = 0,
        update_every: int = 1,
        label_smoothing: float = 0.0,
        lean: bool = False,
        wrap: Wrap = as_it_is,
        mean: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """How the part learns.

        Args:
            network: The whole one.
            held: Layer groups of this process, from 0.
            links: With the processes before and behind.
            loss: Of every critic, without distillation.
            staleness: By how many steps the critic at the cut learns late.
            update_every: The critics learn at every n-th step.
            label_smoothing: Share of the target spread over all classes.
            lean: Whether a group frees what it keeps for its gradients before the next one runs.
            wrap: Goes around every part but the critic at the cut.
            mean: Of a tensor over the replicas of this process, for that critic; None: there are none.

        Raises:
            ValueError: If critics distil: logits do not go over the links.
        """
        if loss.distill:
            raise ValueError("critics that distil need the logits of the next exit")
        stages, last_group = stages_of(network, two_passes=lean)
        is_last = held.stop == len(network.groups)
        ends = range(held.start + 1, held.stop + 1)
        own = zip(stages[held.start : held.stop], ends, strict=False)
        self._stages = [_held(stage, wrap, not is_last and end == held.stop, loss.waits) for stage, end in own]
        self._cut = None if is_last else self._stages[-1]
        self._plain_last_group = last_group if is_last else None
        self._last_group = wrap(last_group) if is_last else None
        self._normalize = network.normalize
        self._links = links
        self._exits = LocalExits(loss, label_smoothing, SideStream(enabled=False))
        self._staleness = staleness
        self._update_every = update_every
        self._mean = mean
        self._late: deque[_Late] = deque()
        self._learnt_early: deque[Tensor] = deque()  # losses that `drain` came to know before their turn

    def parts(self) -> Iterator[nn.Module]:
        """See `Method`."""
        for stage in self._stages:
            yield stage.plain_group
            if not (stage.two_passes and self._exits.loss.waits):
                yield stage.plain_critic
        if self._plain_last_group is not None:
            yield self._plain_last_group

    def backward(self, images: Tensor, labels: Tensor, step: int) -> Losses:
        """See `Method`; only the process of the first groups looks at `images`.

        Raises:
            PeerError: If a neighbour does not answer.
        """
        learns = step % self._update_every == 0
        links = self._links
        hidden = self._normalize(images) if links.hidden_in is None else links.hidden_in.receive(step)
        exits: list[Tensor] = []
        critics: list[Tensor] = []
        waiting: Exit | None = None  # for its target
        for stage in self._stages:
            output = stage.group(hidden)  # (N, C_i, H_i, W_i), with the graph of this group alone
            hidden = stage.next_pool(output.detach())
            if stage is self._cut and links.hidden_out is not None:
                links.hidden_out.send(step, hidden)
                hidden = hidden.new_empty(0)  # nothing here reads it: its memory is free for the backward pass
            own, weights = self._read(stage, stage.pool(output), labels, learns)
            del output
            self._note_losses(step, own.output, exits)
            if waiting is not None:
                critics.append(self._exits.learn(waiting, own.output.detach(), learns))
            self._exits.train_group_early(own, learns)
            waiting = own
        if self._last_group is not None:
            main = self._exits.output(self._last_group(hidden), labels)
            self._note_losses(step, main, exits)
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
        """Lets the critic at the cut learn from all that it is late with, as before a checkpoint, which holds none."""
        while self._late:
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            self._learnt_early.append(self._learn())
            for optimizer in optimizers:
                optimizer.step()  # of that critic alone: nothing else has a gradient

    def forget(self) -> None:
        """Drops what is known of steps that count no more, as when a run goes back to a checkpoint."""
        self._late.clear()
        self._learnt_early.clear()

    def close(self) -> None:
        """Waits until what was sent has arrived."""
        for sender in (self._links.hidden_out, self._links.losses_out):
            if sender is not None:
                sender.close()

    def _read(self, stage: Stage, pooled: Tensor, labels: Tensor, learns: bool) -> tuple[Exit, Sequence[Tensor]]:
        """The critic's forward pass, and the weights of its logits: copies, where they change meanwhile."""
        if stage is not self._cut or self._links.losses_in is None:
            return self._exits.read(stage, pooled, labels, learns), ()
        critic = stage.plain_critic
        weights: dict[str, Tensor] = dict(critic.named_parameters())
        if self._staleness:
            weights = {name: weight.detach().clone().requires_grad_() for name, weight in weights.items()}
        leaf = pooled.detach().requires_grad_()
        output = self._exits.output(functional_call(critic, weights, (leaf,)), labels)
        return Exit(stage, pooled, leaf, output), tuple(weights.values())

    def _note_losses(self, step: int, own: ExitOutput, exits: list[Tensor]) -> None:
        """Notes the losses of an exit; those of the first one go to the process before."""
        losses = own.losses.detach()
        if not exits and self._links.losses_out is not None:
            self._links.losses_out.send(step, losses)
        exits.append(losses)

    def _next_loss(self) -> Tensor:
        """The mean loss of the critic at the cut whose turn it is; it learns if it is `staleness` steps late."""
        if len(self._late) > self._staleness:
            self._learnt_early.append(self._learn())
        return self._learnt_early.popleft() if self._learnt_early else self._late[-1].own.output.losses.new_zeros(())

    def _learn(self) -> Tensor:
        """Gradients of the critic at the cut, from the batch that has waited longest; its mean loss."""
        late = self._late.popleft()
        receiver = self._links.losses_in
        if receiver is None:
            raise ValueError("critics that do not wait are never late")
        own = late.own.output
        loss = self._exits.loss.of_samples(own, ExitOutput(own.logits, receiver.receive(late.step))).mean()
        if late.learns:
            self._set_gradients(torch.autograd.grad(loss, late.weights), late.own.stage.plain_critic)
        return loss.detach()

    def _set_gradients(self, gradients: Sequence[Tensor], critic: nn.Module) -> None:
        if self._mean is not None:
            flat = self._mean(torch.cat([gradient.flatten() for gradient in gradients]))
            sizes = [gradient.numel() for gradient in gradients]
            parts = zip(flat.split(sizes), gradients, strict=True)
            gradients = [part.view_as(gradient) for part, gradient in parts]
        for weight, gradient in zip(critic.parameters(), gradients, strict=True):
            weight.grad = gradient


def _held(stage: Stage, wrap: Wrap, at_cut: bool, waits: bool) -> Stage:
    """A stage with what is put around it. At a cut its group waits for no other, and its critic is called by hand."""
    critic = stage.plain_critic if at_cut and waits else wrap(stage.plain_critic)
    return replace(stage, group=wrap(stage.plain_group), critic=critic, two_passes=stage.two_passes or at_cut)
