"""A training step in three ways: ours, a bare loop on tensors, and a loop as people write it with a DataLoader.

Each is a `Timed`: it trains for so many steps and goes on from there the next time.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.utils import data
from torchvision import transforms

from benchmarks.networks import MEAN, SHAPES, STD, make_network, tensors
from benchmarks.timing import Timed, repeated
from lcprune.data.loaders import TrainLoader
from lcprune.data.sources import Dataset, Split
from lcprune.models import Network
from lcprune.pipeline import batches
from lcprune.recipe import Recipe
from lcprune.training import precision
from lcprune.training.checkpoint import TrainingState
from lcprune.training.loop import Evaluation, LoggedStep, Trainer
from lcprune.training.methods import Method
from lcprune.training.optim import build_optimizers
from lcprune.training.parallel import Coordinator
from lcprune.training.step import GRAPH_WARMUP, compile_parts

ITEM_EVERY = 20
"""Steps between two looks at the loss in a loop as people write it."""
NO_IMAGES = Split(np.zeros((0, 1, 1, 1), np.uint8), np.zeros(0, np.int64))
SETTLE_S = 0.2
"""Wait after such a loop, until its workers have filled their queue: else they would slow what comes next."""


class Ours:
    """The training loop itself, `lcprune.training.loop.Trainer.fit`, with everything that it does at every step."""

    def __init__(self, recipe: Recipe, split: Split, coordinator: Coordinator) -> None:
        """Puts the images of `split` on the device, as a run does; the recipe must be longer than it is measured."""
        train, is_cuda = recipe.train, coordinator.device.type == "cuda"
        # The loop records its step anew each time that it is called, which a run does once.
        self._before = [GRAPH_WARMUP + 1] if train.cuda_graph and is_cuda else []
        self._method, self._state = placed(recipe, split, coordinator)
        if train.compile:
            compile_parts(self._method)
        self._trainer = Trainer(
            recipe=recipe,
            iterations=train.iterations or 0,
            loader=loader_of(recipe, split, coordinator),
            held_out=NO_IMAGES,
            held_out_name="val",
            checkpoints=Path("never written"),
            reproducibility={},
            coordinator=coordinator,
        )

    def laps(self, steps: Sequence[int]) -> list[float]:
        """Trains for the sum of `steps` in one go; the seconds of each stretch."""
        clock = _Clock(steps, self._trainer.coordinator.device)
        try:
            self._trainer.fit(self._method, self._state, clock)
        except _EnoughError:
            return clock.seconds
        raise ValueError("the recipe is too short to be measured")

    def __call__(self, steps: int) -> float:
        """See `Timed`."""
        return self.laps([*self._before, steps])[-1]


def placed(recipe: Recipe, split: Split, coordinator: Coordinator) -> tuple[Method, TrainingState]:
    """This process's part of a network that has learnt nothing, and its method."""

    def fresh() -> TrainingState:
        network = make_network(recipe, coordinator.device)
        return TrainingState(network, build_optimizers(recipe, network))

    iterations = recipe.train.iterations or 0
    return coordinator.place(recipe, fresh(), split.images.shape[1:], fresh, iterations=iterations)


def loader_of(recipe: Recipe, split: Split, coordinator: Coordinator) -> TrainLoader:
    """Batches as a run has them, or this process's part of each."""
    classes, (channels, *_) = SHAPES[recipe.data.source]
    dataset = Dataset(split, NO_IMAGES, NO_IMAGES, ("",) * classes, (MEAN,) * channels, (STD,) * channels)
    return batches.loader_of(recipe, dataset, coordinator)


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
    images, labels = tensors(recipe, split, device)
    gradients = _gradients(recipe, network.normalize, network)
    bf16 = precision.resolve(recipe.train.precision, device) == "bf16"
    size = recipe.data.batch_size
    starts = _forever(range(0, len(images) - size + 1, size))

    def step() -> None:
        start = next(starts)
        for optimizer in optimizers:
            optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            gradients(images[start : start + size], labels[start : start + size])
        for optimizer in optimizers:
            optimizer.step()

    return repeated(step, last=partial(synchronize, device))


def plain_loop(recipe: Recipe, split: Split, device: torch.device, workers: int = 2) -> Timed:
    """A loop as people write it: torchvision's transforms in a DataLoader with workers, optimizers as they come.

    Its images are normalised by the transforms, its network and images are contiguous, and it works in float32.
    """
    contiguous = recipe.model_copy(update={"train": recipe.train.model_copy(update={"channels_last": False})})
    network = make_network(contiguous, device)
    optimizers = _optimizers(recipe, network, fused=None)
    gradients = _gradients(recipe, nn.Identity(), network)
    endless = _forever(_data_loader(recipe, split, workers))
    done = 0

    def step() -> None:
        nonlocal done
        images, labels = next(endless)
        images, labels = images.to(device), labels.to(device)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss = gradients(images, labels)
        for optimizer in optimizers:
            optimizer.step()
        done += 1
        if done % ITEM_EVERY == 0:
            loss.item()

    timed = repeated(step, last=partial(synchronize, device))

    def train(steps: int) -> float:
        taken = timed(steps)
        time.sleep(SETTLE_S if workers else 0)
        return taken

    return train


def synchronize(device: torch.device) -> None:
    """Waits until the device has done what it was told to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def local_critic_gradients(
    groups: Sequence[nn.Module], critics: Sequence[nn.Module], images: Tensor, labels: Tensor, label_smoothing: float
) -> Tensor:
    """Eq. (5) and (7) of the paper written down one by one: the mean loss of main, gradients left in ``.grad``."""

    def sample_losses(logits: Tensor) -> Tensor:
        return F.cross_entropy(logits.float(), labels, reduction="none", label_smoothing=label_smoothing)

    losses, hiddens, leaves = [], [], []
    for group, critic in zip(groups[:-1], critics, strict=True):
        hidden = group(images)
        leaf = hidden.detach().requires_grad_()
        losses.append(sample_losses(critic(leaf)))
        hiddens.append(hidden)
        leaves.append(leaf)
        images = hidden.detach()
    main = sample_losses(groups[-1](images))
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
    critics = [Adam(network.critics.parameters(), lr=recipe.critics.lr, fused=fused)] if network.critics else []
    return [sgd(recipe, network.groups, fused), *critics]


def sgd(recipe: Recipe, module: nn.Module, fused: bool | None) -> Optimizer:
    """What the recipe trains main with."""
    options = {name: getattr(recipe.train, name) for name in ("lr", "momentum", "nesterov", "weight_decay")}
    return torch.optim.SGD(module.parameters(), **options, fused=fused)


def _data_loader(recipe: Recipe, split: Split, workers: int) -> data.DataLoader[tuple[Tensor, int]]:
    transform = transforms.Compose(
        [
            transforms.RandomCrop(split.images.shape[-1], padding=recipe.data.pad),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((MEAN,) * 3, (STD,) * 3),
        ]
    )
    return data.DataLoader(
        _Pictures(split, transform), recipe.data.batch_size, shuffle=True, num_workers=workers, drop_last=True
    )


class _Pictures(data.Dataset[tuple[Tensor, int]]):
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
