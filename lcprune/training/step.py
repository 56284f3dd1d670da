"""One training step: gradients and updates, eager or as a CUDA graph."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim import Optimizer

from lcprune.training.methods import Losses, Method

GRAPH_WARMUP = 3
"""Eager steps before a step is captured, so that the states of optimizers and the kernels of libraries exist."""


Step = Callable[[Tensor, Tensor, int], Losses]
"""One update of everything that the method trains, with the learning rates that the optimizers hold.

It is called with images ``(N, C, H, W)`` in 0..1, labels ``(N,)`` and the number of the step, from 0.
"""
Work = Callable[[], Losses]
Record = Callable[[Work], Work]
"""Captures work on a device without running it; the result runs it, each time in the same memory."""


def build_step(
    method: Method, optimizers: Sequence[Optimizer], device: torch.device, *, bf16: bool, cuda_graph: bool
) -> Step:
    """The step of a run. `cuda_graph` has an effect on a CUDA device only."""
    eager = EagerStep(method, optimizers, device, bf16)
    return GraphedStep(eager, optimizers, record_cuda_graph) if cuda_graph and device.type == "cuda" else eager


def compile_parts(method: Method) -> None:
    """Compiles the parts of the method with torch.compile, each at its first call. Needs a C++ compiler."""
    parts = tuple(method.parts())
    # All parts share the code of nn.Sequential.forward, for which compilations are limited.
    torch._dynamo.config.recompile_limit = 4 * len(parts)
    for part in parts:
        part.compile()


class EagerStep:
    """Runs each operation eagerly. It never synchronises with the device: losses stay there."""

    def __init__(self, method: Method, optimizers: Sequence[Optimizer], device: torch.device, bf16: bool) -> None:
        """With `bf16` forward and backward passes use autocast; losses, weights and updates are float32."""
        self._method = method
        self._optimizers = optimizers
        self._device = device
        self._bf16 = bf16

    def __call__(self, images: Tensor, labels: Tensor, step: int) -> Losses:
        """See `Step`."""
        self.forget_gradients()
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            losses = self._method.backward(images, labels, step)
        for optimizer in self._optimizers:
            optimizer.step()
        return losses

    def forget_gradients(self) -> None:
        """Sets all gradients to None."""
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)


class GraphedStep:
    """Captures a step once and then replays it, without work for Python or the driver.

    Images, labels and learning rates are copied to the memory of the captured step; the next replay overwrites the
    losses that it returns. All steps must be the same: number of images, and critics that learn at every step.
    """

    def __init__(self, eager: EagerStep, optimizers: Sequence[Optimizer], record: Record) -> None:
        """`record` is `record_cuda_graph`."""
        self._eager = eager
        self._optimizers = optimizers
        self._record = record
        self._done = 0
        self._replay: Work | None = None
        self._images = self._labels = torch.empty(0)
        self._rates: list[Tensor] = []

    def __call__(self, images: Tensor, labels: Tensor, step: int) -> Losses:
        """See `Step`."""
        if self._done < GRAPH_WARMUP:
            self._done += 1
            return self._eager(images, labels, step)
        if self._replay is None:
            self._replay = self._recorded(images, labels, step)
        self._images.copy_(images)
        self._labels.copy_(labels)
        for rate, optimizer in zip(self._rates, self._optimizers, strict=True):
            rate.fill_(optimizer.param_groups[0]["lr"])
        return self._replay()

    def _recorded(self, images: Tensor, labels: Tensor, step: int) -> Work:
        self._images, self._labels = images.clone(), labels.clone()  # clone keeps the memory format
        self._rates = [torch.zeros((), device=images.device) for _ in self._optimizers]
        self._eager.forget_gradients()  # gradients of the captured step get memory of their own
        with _rates_in_memory(self._optimizers, self._rates):
            return self._record(lambda: self._eager(self._images, self._labels, step))


@contextmanager
def _rates_in_memory(optimizers: Sequence[Optimizer], rates: Sequence[Tensor]) -> Iterator[None]:
    """Makes optimizers read their learning rate from tensors; afterwards it is a number again, as in checkpoints."""
    groups = [
        (group, rate) for optimizer, rate in zip(optimizers, rates, strict=True) for group in optimizer.param_groups
    ]
    before = [dict(group) for group, _ in groups]
    for group, rate in groups:
        group |= {"lr": rate} | ({"capturable": True} if "capturable" in group else {})
    try:
        yield
    finally:
        for (group, _), settings in zip(groups, before, strict=True):
            group |= settings


def record_cuda_graph(work: Work) -> Work:
    """`work` as a CUDA graph; every replay writes its losses to the same memory."""
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        losses = work()

    def replay() -> Losses:
        graph.replay()
        return losses

    return replay
