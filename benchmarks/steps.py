"""A training step in three ways: ours, a bare loop on tensors, and a loop as people write it with a DataLoader.

Each is a `Timed`: it trains for so many steps and goes on from there the next time.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.networks import MEAN, STD, make_network, memory_format
from benchmarks.timing import Timed
from lcprune.data.loaders import TrainLoader
from lcprune.data.sources import Split
from lcprune.models import Network
from lcprune.recipe import Recipe
from lcprune.training import precision
from lcprune.training.checkpoint import TrainingState
from lcprune.training.loop import Evaluation, LoggedStep, Trainer
from lcprune.training.methods import Method, build_method
from lcprune.training.optim import build_optimizers
from lcprune.training.parallel import Coordinator
from lcprune.training.step import GRAPH_WARMUP, compile_parts

ITEM_EVERY = 20
"""Steps between two looks at the loss in a loop as people write it."""
SETTLE_S = 0.2
"""Wait after such a loop, until its workers have filled their queue: else they would slow what comes next."""


class Ours:
    """The training loop itself, `lcprune.training.loop.Trainer.fit`, with everything that it does at every step."""

    def __init__(self, recipe: Recipe, split: Split, device: torch.device) -> None:
        """Puts the images of `split` on the device, as a run does."""
        train = recipe.train
        # The loop records its step anew each time that it is called, which a run does once.
        self._before = [GRAPH_WARMUP + 1] if train.cuda_graph and device.type == "cuda" else []
        network = make_network(recipe, device)
        state = TrainingState(network, build_optimizers(recipe, network))
        method = build_method(recipe, network)
        if train.compile:
            compile_parts(method)
        self._loop = Loop(trainer_of(recipe, loader_of(recipe, split, device), Coordinator(device)), method, state)

    def __call__(self, steps: int) -> float:
        """See `Timed`."""
        return self.laps([*self._before, steps])[-1]

    def laps(self, steps: Sequence[int]) -> list[float]:
        """Trains for the sum of `steps` in one go; the seconds of each stretch."""
        return self._loop.laps(steps)


class Loop:
    """`Trainer.fit`, so many steps at a time."""

    def __init__(self, trainer: Trainer, method: Method, state: TrainingState) -> None:
        """The trainer must not come to its end, nor to an evaluation or a checkpoint."""
        self._trainer = trainer
        self._method = method
        self._state = state

    def laps(self, steps: Sequence[int]) -> list[float]:
        """Trains for the sum of `steps` in one go; the seconds of each stretch."""
        clock = _Clock(steps, self._trainer.coordinator.device)
        try:
            self._trainer.fit(self._method, self._state, clock)
        except _EnoughError:
            return clock.seconds
        raise ValueError("the recipe is too short to be measured")


def loader_of(
    recipe: Recipe, split: Split, device: torch.device, rows: slice | None = None, labels_only: bool = False
) -> TrainLoader:
    """Batches as a run has them; `rows` of each, or all."""
    data, train = recipe.data, recipe.train
    return TrainLoader(
        split,
        batch_size=data.batch_size,
        augment=data.augment,
        pad=data.pad,
        seed=train.seed,
        device=device,
        channels_last=train.channels_last,
        flip=data.flip,
        rows=rows,
        labels_only=labels_only,
    )


def trainer_of(recipe: Recipe, loader: TrainLoader, coordinator: Coordinator) -> Trainer:
    """Of a training that holds out no images and writes nothing."""
    nothing = Split(np.zeros((0, 1, 1, 1), np.uint8), np.zeros(0, np.int64))
    return Trainer(
        recipe=recipe,
        iterations=recipe.train.iterations or 0,
        loader=loader,
        held_out=nothing,
        held_out_name="val",
        checkpoints=Path("never written"),
        reproducibility={},
        coordinator=coordinator,
    )


class _EnoughError(Exception):
    """Ends `fit` between two steps."""


class _Clock:
    """A listener of the training loop that takes the time."""

    def __init__(self, laps: Sequence[int], device: torch.device) -> None:
        self.seconds: list[float] = []
        self._laps = laps
        self._device = device
        self._steps = 0
        self._start = time.perf_counter()

    def stepped(self, step: int, logged: LoggedStep | None) -> None:
        """See `Listener`."""
        self._steps += 1
        if self._steps < self._laps[len(self.seconds)]:
            return
        synchronize(self._device)
        now = time.perf_counter()
        self.seconds.append(now - self._start)
        self._steps, self._start = 0, now
        if len(self.seconds) == len(self._laps):
            raise _EnoughError

    def evaluated(self, evaluation: Evaluation) -> None:
        """See `Listener`."""


def bare_loop(recipe: Recipe, split: Split, device: torch.device) -> Timed:
    """A loop on tensors without our code: the same network, memory format and fused optimizers, no augmentation."""
    network = make_network(recipe, device)
    optimizers = _optimizers(recipe, network, fused=True)
    images = torch.from_numpy(split.images).to(device).float().div_(255).contiguous(memory_format=memory_format(recipe))
    labels = torch.from_numpy(split.labels).to(device)
    gradients = _gradients(recipe, network.normalize, network)
    bf16 = precision.resolve(recipe.train.precision, device) == "bf16"
    size = recipe.data.batch_size
    starts = _forever(range(0, len(images) - size + 1, size))

    def train(steps: int) -> float:
        begin = time.perf_counter()
        for _ in range(steps):
            start = next(starts)
            for optimizer in optimizers:
                optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                gradients(images[start : start + size], labels[start : start + size])
            for optimizer in optimizers:
                optimizer.step()
        synchronize(device)
        return time.perf_counter() - begin

    return train


def plain_loop(recipe: Recipe, split: Split, device: torch.device, workers: int = 2) -> Timed:
    """A loop as people write it: torchvision's transforms in a DataLoader with workers, optimizers as they come.

    Its images are normalised by the transforms, its network and images are contiguous, and it works in float32.
    """
    contiguous = recipe.model_copy(update={"train": recipe.train.model_copy(update={"channels_last": False})})
    network = make_network(contiguous, device)
    optimizers = _optimizers(recipe, network, fused=None)
    gradients = _gradients(recipe, nn.Identity(), network)
    batches = _forever(_data_loader(recipe, split, workers))
    done = 0

    def train(steps: int) -> float:
        nonlocal done
        begin = time.perf_counter()
        for _ in range(steps):
            images, labels = next(batches)
            images, labels = images.to(device), labels.to(device)
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss = gradients(images, labels)
            for optimizer in optimizers:
                optimizer.step()
            done += 1
            if done % ITEM_EVERY == 0:
                loss.item()
        synchronize(device)
        taken = time.perf_counter() - begin
        time.sleep(SETTLE_S if workers else 0)
        return taken

    return train


def matrix_product(device: torch.device, dtype: torch.dtype, size: int) -> Timed:
    """Products of two square matrices: the arithmetic that the machine can do at best, 2 x size^3 operations each."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    product = torch.empty_like(left)

    def multiply(times: int) -> float:
        begin = time.perf_counter()
        for _ in range(times):
            torch.mm(left, right, out=product)
        synchronize(device)
        return time.perf_counter() - begin

    return multiply


def synchronize(device: torch.device) -> None:
    """Waits until the device has done what it was told to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def local_critic_gradients(
    groups: Sequence[nn.Module], critics: Sequence[nn.Module], images: Tensor, labels: Tensor, label_smoothing: float
) -> Tensor:
    """Eq. (5) and (7) of the paper written down one by one: the mean loss of main, gradients left in ``.grad``."""
    losses, hiddens, leaves = [], [], []
    for group, critic in zip(groups[:-1], critics, strict=True):
        hidden = group(images)
        leaf = hidden.detach().requires_grad_()
        losses.append(_sample_losses(critic(leaf), labels, label_smoothing))
        hiddens.append(hidden)
        leaves.append(leaf)
        images = hidden.detach()
    main = _sample_losses(groups[-1](images), labels, label_smoothing)
    losses.append(main)
    for index, critic in enumerate(critics):
        own, deeper = losses[index], losses[index + 1].detach()
        (delta,) = torch.autograd.grad(own.mean(), leaves[index], retain_graph=True)
        hiddens[index].backward(delta)
        (own - deeper).abs().mean().backward(inputs=list(critic.parameters()))
    main.mean().backward()
    return main.detach().mean()


def _gradients(recipe: Recipe, normalize: nn.Module, network: Network) -> Callable[[Tensor, Tensor], Tensor]:
    """Leaves the gradients of a batch in the network and returns main's loss, as the recipe's method asks."""
    smoothing = recipe.train.label_smoothing
    groups, critics = list(network.groups), list(network.critics)
    if recipe.train.method == "local_critic" and recipe.critics.loss == "cascade":
        return lambda images, labels: local_critic_gradients(groups, critics, normalize(images), labels, smoothing)
    if recipe.train.method != "backprop":
        raise ValueError("only backprop and local_critic with the paper's loss are written down as plain loops")
    model = nn.Sequential(normalize, *groups)

    def backpropagate(images: Tensor, labels: Tensor) -> Tensor:
        loss = F.cross_entropy(model(images), labels, label_smoothing=smoothing)
        loss.backward()
        return loss.detach()

    return backpropagate


def _optimizers(recipe: Recipe, network: Network, fused: bool | None) -> list[Optimizer]:
    """What the recipe asks for, the weights unsorted; None leaves the implementation to torch."""
    train, critics = recipe.train, recipe.critics
    trunk = torch.optim.SGD(
        network.groups.parameters(),
        lr=train.lr,
        momentum=train.momentum,
        nesterov=train.nesterov,
        weight_decay=train.weight_decay,
        fused=fused,
    )
    return [trunk, Adam(network.critics.parameters(), lr=critics.lr, fused=fused)] if network.critics else [trunk]


def _sample_losses(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    return F.cross_entropy(logits.float(), labels, reduction="none", label_smoothing=label_smoothing)


def _data_loader(recipe: Recipe, split: Split, workers: int) -> DataLoader[tuple[Tensor, int]]:
    transform = transforms.Compose(
        [
            transforms.RandomCrop(split.images.shape[-1], padding=recipe.data.pad),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((MEAN,) * 3, (STD,) * 3),
        ]
    )
    return DataLoader(
        _Pictures(split, transform), recipe.data.batch_size, shuffle=True, num_workers=workers, drop_last=True
    )


class _Pictures(Dataset[tuple[Tensor, int]]):
    """RGB images as torchvision's CIFAR gives them: decoded into PIL one by one, then transformed."""

    def __init__(self, split: Split, transform: Callable[[Image.Image], Tensor]) -> None:
        self._images = split.images.transpose(0, 2, 3, 1).copy()  # (N, H, W, C)
        self._labels = split.labels.tolist()
        self._transform = transform

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._transform(Image.fromarray(self._images[index])), self._labels[index]


def _forever(source: Any) -> Iterator[Any]:
    while True:
        yield from source
