"""One exit of local critic training: the gradients of a layer group and of its critic.

With h_i the output of group i, L_i its critic's cross-entropy and w_j the critic's weight of sample j, critic i has to
compute two gradients: delta_i = d mean_j(L_i^j) / d h_i for the group (Eq. 5), and
d mean_j(w_j L_i^j) / d(critic's weights) for the critic; w_j = sign(L_i^j - L_{i+1}^j) for the L1 loss of Eq. (7).
A critic that processes each sample independently computes both in one backward pass of mean_j(w_j L_i^j): the gradient
by h_i then has the rows w_j delta_i^j, and a division by w_j gives delta_i. A weight of zero would lose its row, so it
is replaced by 2^-60, which is negligible for the critic and divided out for the group.

One pass has to wait for L_{i+1}, and so for the forward pass of the next group. With two passes the group's is first
and frees the group's saved tensors; the critic's follows when L_{i+1} is known. A critic that mixes samples (BatchNorm)
always needs two passes, and so does distillation, whose gradient is not a multiple of that of L_i;
``memory="lean"`` uses two everywhere.

The average pool at the start of a critic is differentiated with the group. So the gradient that is kept between the two
graphs has the pooled size, and the full one exists during the group's backward pass only. For the same reason a max
pool at the start of the next group runs before that: a quarter of the group's output is kept.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lcprune.models import AveragePool, Network, mixes_samples
from lcprune.training.methods.base import sample_losses
from lcprune.training.methods.critic_loss import CriticLoss, ExitOutput

ALMOST_ZERO = 2.0**-60
"""Replaces a weight of zero; a power of two, so that the division is exact."""


@dataclass(frozen=True)
class Stage:
    """A layer group and its critic, divided after the critic's pool."""

    group: nn.Module
    pool: nn.Module
    critic: nn.Module
    """What comes after the pool."""
    two_passes: bool
    next_pool: nn.Module
    """The max pool at the start of the next group."""


def stages_of(network: Network, *, two_passes: bool) -> tuple[list[Stage], nn.Module]:
    """Every layer group with a critic, shallow first, and the last group, without the max pool at its start.

    Args:
        network: With at least one critic.
        two_passes: Use them everywhere, not only where a critic needs them.
    """
    heads, groups = zip(*(_split(group, nn.MaxPool2d) for group in network.groups[1:]), strict=True)
    stages = []
    for group, whole_critic, head in zip((network.groups[0], *groups[:-1]), network.critics, heads, strict=True):
        pool, critic = _split(whole_critic, AveragePool)
        mixes = two_passes or mixes_samples(critic)
        stages.append(Stage(group, pool, critic, mixes, head))
    return stages, groups[-1]


def compilable(stages: Iterable[Stage], last_group: nn.Module | None, loss: CriticLoss) -> Iterator[nn.Module]:
    """See `Method.parts`. Compiled parts allow no second backward pass, so critics with two are left out."""
    for stage in stages:
        yield stage.group
        if not (stage.two_passes and loss.waits):
            yield stage.critic
    if last_group is not None:
        yield last_group


@dataclass(frozen=True)
class Exit:
    """One exit of the forward pass, before the loss of the next one is known."""

    stage: Stage
    pooled: Tensor
    """The critic's input, with the group's graph, ``(N, C, H, W)``."""
    leaf: Tensor
    """The same values, detached from the group."""
    output: ExitOutput
    """Of the critic, with its graph."""


class SideStream:
    """Runs independent work on a second CUDA stream; on other devices everything runs in order."""

    def __init__(self, enabled: bool) -> None:
        """Without `enabled`, or without a CUDA device, everything runs on the current stream."""
        self.enabled = enabled and torch.cuda.is_available()
        self._stream = torch.cuda.Stream() if self.enabled else None

    @contextmanager
    def beside(self, *inputs: Tensor) -> Iterator[None]:
        """Runs the body on the second stream, after all work of the current stream so far; it reads `inputs`."""
        if self._stream is None or not all(tensor.is_cuda for tensor in inputs):
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream())
        for tensor in inputs:
            tensor.record_stream(self._stream)  # its memory is not reused before this stream has read it
        with torch.cuda.stream(self._stream):
            yield

    def join(self, *outputs: Tensor) -> None:
        """The current stream waits for the second one, and reads `outputs`."""
        if self._stream is None or not all(tensor.is_cuda for tensor in outputs):
            return
        current = torch.cuda.current_stream()
        current.wait_stream(self._stream)
        for tensor in outputs:
            tensor.record_stream(current)


class LocalExits:
    """The operations of an exit: forward pass of the critic, gradients of the group, gradients of the critic."""

    def __init__(self, loss: CriticLoss, label_smoothing: float, side: SideStream) -> None:
        """`loss` is the loss of every critic; critics run on `side`."""
        self.loss = loss
        self.side = side
        self._label_smoothing = label_smoothing

    def read(self, stage: Stage, pooled: Tensor, labels: Tensor) -> Exit:
        """The critic's forward pass."""
        with self.side.beside(pooled, labels):
            leaf = pooled.detach().requires_grad_()
            return Exit(stage, pooled, leaf, self.output(stage.critic(leaf), labels))

    def output(self, logits: Tensor, labels: Tensor) -> ExitOutput:
        """Logits ``(N, classes)`` and losses of an exit."""
        return ExitOutput(logits, sample_losses(logits, labels, self._label_smoothing))

    def train_group_early(self, own: Exit, critics_learn: bool) -> None:
        """Gradients of the group, if they do not depend on the next exit."""
        if critics_learn and self.loss.waits and not own.stage.two_passes:
            return
        with self.side.beside():
            if critics_learn and not self.loss.waits:
                own.output.losses.mean().backward()  # every weight is 1, so this is the critic's gradient too
                delta = _gradient(own.leaf)
            else:
                (delta,) = torch.autograd.grad(own.output.losses.mean(), own.leaf, retain_graph=critics_learn)
        self._train_group(own, delta)

    def learn(self, own: Exit, target: ExitOutput, critics_learn: bool) -> Tensor:
        """Gradients of the critic, and of its group if both take one pass; returns the critic's mean loss."""
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
    """delta_i, ``(N, C, H, W)``; accumulates the critic's gradient for losses weighted by `weights`, ``(N,)``."""
    weights = torch.where(weights == 0, ALMOST_ZERO, weights)
    (own.output.losses * weights).mean().backward()
    return _gradient(own.leaf).mul_(weights.reciprocal().reshape(-1, 1, 1, 1))


def _gradient(leaf: Tensor) -> Tensor:
    if leaf.grad is None:
        raise ValueError("the critic does not read its input")
    return leaf.grad
