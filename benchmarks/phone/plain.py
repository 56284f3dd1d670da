"""The plain way: a training loop as people write it, one network for each image size, and `quantize_static`."""

import json
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.commands import once
from benchmarks.phone.folds import Images, Part, read_parts
from benchmarks.phone.network import Normalized, lite
from benchmarks.provenance import Row

EPOCHS, BATCH, LR, WEIGHT_DECAY, SMOOTHING = 14, 32, 0.03, 1e-4, 0.1
SHIFT = 8
"""Images are shifted by at most this part of their size."""


def trained(table: Path, network: str, size: int, seed: int, folder: Path) -> Row:
    """Trains one network on the images of a fold at one size, once, and keeps the weights of the last epoch.

    Args:
        table: Of the fold.
        network: As `lite` takes it.
        size: Height and width in pixels.
        seed: Of the classifier, dropout, order and augmentation.
        folder: Where ``weights.safetensors`` is written.
    """

    def make() -> Row:
        parts = read_parts(table, size, ("train", "val"))
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(seed)
        model = Normalized(lite(network, int(parts["train"].labels.max()) + 1, size))
        row = {"size": size, "seed": seed, **fit(model, parts["train"], parts["val"], seed)}
        save_file(
            {name: each.contiguous() for name, each in model.state_dict().items()}, folder / "weights.safetensors"
        )
        return row

    return once(folder / "training.json", make)


def fit(network: nn.Module, train: Part, val: Part, seed: int) -> Row:
    """SGD on one cycle; validation accuracy after every epoch, and the seconds of training alone."""
    rng = np.random.default_rng(seed)
    network.to(memory_format=torch.channels_last)
    steps = len(train.labels) // BATCH
    optimizer = torch.optim.SGD(network.parameters(), LR, momentum=0.9, weight_decay=WEIGHT_DECAY, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=EPOCHS * steps, cycle_momentum=False)
    wall_s = cpu_s = 0.0
    accuracies = []
    for epoch in range(EPOCHS):
        network.train()
        started, started_cpu = time.perf_counter(), time.process_time()
        order = rng.permutation(len(train.labels))
        for step in range(steps):
            chosen = order[step * BATCH : (step + 1) * BATCH]
            logits = network(as_pixels(augmented(train.images[chosen], rng)))
            loss = F.cross_entropy(logits, torch.from_numpy(train.labels[chosen]), label_smoothing=SMOOTHING)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
        wall_s, cpu_s = wall_s + time.perf_counter() - started, cpu_s + time.process_time() - started_cpu
        accuracies.append(100 * float((predicted(network, val.images).argmax(1) == val.labels).mean()))
        line = {"epoch": epoch + 1, "loss": loss.item(), "val_accuracy_pct": accuracies[-1], "cpu_s": cpu_s}
        print(json.dumps(line), flush=True)
    return {"steps": EPOCHS * steps, "cpu_s": cpu_s, "wall_s": wall_s, "val_accuracy_pct": accuracies}


def augmented(images: Images, rng: np.random.Generator) -> Images:
    """Each image shifted by up to an eighth of its size, black moving in, and mirrored or not, ``(N, C, H, W)``."""
    size = images.shape[-1]
    margin = size // SHIFT
    padded = np.pad(images, ((0, 0), (0, 0), (margin, margin), (margin, margin)))
    found = np.empty_like(images)
    for index, (top, left) in enumerate(rng.integers(0, 2 * margin + 1, (len(images), 2))):
        crop = padded[index, :, top : top + size, left : left + size]
        found[index] = crop[..., ::-1] if rng.random() < 0.5 else crop
    return found


def as_pixels(images: Images) -> Tensor:
    """Pixels in 0..1, ``(N, C, H, W)``, channels last in memory."""
    return torch.from_numpy(images).to(memory_format=torch.channels_last).float() / 255


def predicted(network: nn.Module, images: Images) -> np.ndarray:
    """Logits, ``(N, classes)``."""
    network.eval()
    with torch.inference_mode():
        return torch.cat([network(as_pixels(images[at : at + 64])) for at in range(0, len(images), 64)]).numpy()
