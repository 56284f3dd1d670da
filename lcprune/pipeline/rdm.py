"""A look inside a run: how its layers tell samples apart, and what its losses and accuracies did on the way."""

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lcprune import runs
from lcprune.analysis.curves import Curves
from lcprune.analysis.representation import Dissimilarities, dissimilarity, label_ordered
from lcprune.data.loaders import eval_batches
from lcprune.data.sources import Split
from lcprune.errors import RunError
from lcprune.models import Network
from lcprune.pipeline import stored
from lcprune.pipeline.train import choose_device
from lcprune.recipe import Recipe

BATCH = 50
ACTIVATION_BYTES = 1 << 29
"""Of the activations that are kept at one time; a single layer that is larger is kept all the same."""

ACTIVATIONS = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.RReLU,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
    nn.Hardtanh,
    nn.Softplus,
    nn.Softsign,
    nn.Tanh,
    nn.Threshold,
)
"""What ends a layer. Sigmoids are left out: in today's trunks they are gates, whose outputs are factors."""

See = Callable[[int, Tensor], None]


def dissimilarities(run: Path, samples: int = 400, *, device: str = "cpu") -> Dissimilarities:
    """The matrices of every layer of a finished run (Figure 5), on its test images or, without any, on others.

    Args:
        run: Its folder.
        samples: How many images, evenly over the classes; the first ones of each.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.

    Raises:
        RunError: If the run is not finished.
        DataError: If its images are no longer there.
    """
    folder, recipe = runs.open_run(run)
    network, _ = stored.load_network(folder, recipe)
    images, split = _samples(folder, recipe, samples)
    return of_network(network.to(choose_device(device)), images, split)


def of_network(network: Network, images: Split, split: str) -> Dissimilarities:
    """The matrices of every layer: the output of every activation of the trunk, and the logits of main.

    Each activation ends a convolution of the trunk, or the sum that a residual block begins with. A trunk without any
    of the modules `ACTIVATIONS`, such as one that calls functions, is seen by the outputs of its convolutions. The
    network is run as often as it takes to keep no more than `ACTIVATION_BYTES`, and is left in eval mode.

    Args:
        network: Trained.
        images: The samples, ordered by label.
        split: Where they come from.
    """
    network.eval()
    sizes: list[int] = []
    ends = _run_trunk(network, images.subset(np.arange(1)), lambda _, output: sizes.append(output.numel()))
    matrices = np.empty((len(sizes), len(images), len(images)), dtype=np.float32)
    for places in _passes([4 * size * len(images) for size in sizes]):
        matrices[places] = _pass_matrices(network, images, {place: sizes[place] for place in places})
    return Dissimilarities(
        layers=(*(f"layer {number}" for number in range(1, len(sizes))), "output"),
        matrices=matrices,
        labels=images.labels,
        critic_after=tuple(end - 1 for end in ends[:-1] if end),  # no layer lies before a critic at the very start
        split=split,
    )


def curves(run: Path) -> Curves:
    """Losses and accuracies of every exit over the steps so far (Figures 3 and 7), finished or not.

    Raises:
        RunError: If nothing is logged yet.
    """
    folder, _ = runs.open_run(run)
    lines = _metrics(folder)
    logged = [line for line in lines if "loss" in line]
    if not logged:
        raise RunError(f"{folder} has no losses in {runs.METRICS} yet", f"run this first: lcprune resume {folder}")
    evaluated = [line for line in lines if "accuracy_pct" in line]
    is_test = all("test_accuracy_pct" in line or line["split"] == "test" for line in evaluated)
    key = "test_accuracy_pct" if is_test else "accuracy_pct"
    accuracies = [line.get(key, line["accuracy_pct"]) for line in evaluated]
    n_exits = len(logged[0]["loss"])
    return Curves(
        exit_names=_exit_names(n_exits),
        steps=np.array([line["step"] for line in logged], dtype=np.int64),
        losses=np.array([line["loss"] for line in logged], dtype=np.float64),
        eval_steps=np.array([line["step"] for line in evaluated], dtype=np.int64),
        accuracies_pct=np.array(accuracies, dtype=np.float64).reshape(len(evaluated), n_exits),
        split="test" if is_test else "val",
    )


def _samples(folder: Path, recipe: Recipe, count: int) -> tuple[Split, str]:
    """The samples and the split that they come from; the other images are let go of."""
    dataset, _ = stored.load_dataset(folder, recipe)
    splits = {"test": dataset.test, "val": dataset.val, "train": dataset.train}
    name = next(name for name, split in splits.items() if len(split))
    return splits[name].subset(label_ordered(splits[name].labels, count)), name


def _exit_names(n_exits: int) -> tuple[str, ...]:
    return (*(f"sub-model {k}" for k in range(1, n_exits)), "main")


def _metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``; one that a crash cut short is left out."""
    path = folder / runs.METRICS
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def _passes(layer_bytes: Sequence[int]) -> list[list[int]]:
    """Neighbouring layers that are looked at together, each group within `ACTIVATION_BYTES` or of one layer."""
    passes: list[list[int]] = []
    held = 0
    for place, size in enumerate(layer_bytes):
        if not passes or held + size > ACTIVATION_BYTES:
            passes.append([])
            held = 0
        passes[-1].append(place)
        held += size
    return passes


def _pass_matrices(network: Network, images: Split, sizes: dict[int, int]) -> list[np.ndarray[Any, Any]]:
    """The matrices of some layers; their activations are gone when this returns."""
    return [dissimilarity(activations) for activations in _activations(network, images, sizes).values()]


def _activations(network: Network, images: Split, sizes: dict[int, int]) -> dict[int, np.ndarray[Any, Any]]:
    """Outputs ``(N, D)`` of the layers at the places in `sizes`, which says their D."""
    kept = {place: np.empty((len(images), size), dtype=np.float32) for place, size in sizes.items()}
    filled = dict.fromkeys(kept, 0)

    def keep(place: int, output: Tensor) -> None:
        if place in kept:
            start, filled[place] = filled[place], filled[place] + len(output)
            kept[place][start : filled[place]] = output.flatten(1).float().cpu().numpy()

    _run_trunk(network, images, keep)
    return kept


def _run_trunk(network: Network, images: Split, see: See) -> list[int]:
    """Shows `see` the place and the output of every layer, batch after batch.

    Returns:
        How many layers have run at the end of each group, ``(K,)``.
    """
    place = 0

    def layer(output: Tensor) -> None:
        nonlocal place
        see(place, output)
        place += 1

    ends: list[int] = []
    with torch.inference_mode(), ExitStack() as hooks:
        for part in _watched(network):
            hooks.enter_context(part.register_forward_hook(lambda _module, _inputs, output: layer(output)))
        for pixels, _ in eval_batches(images, BATCH, next(network.parameters()).device):
            place, ends = 0, []
            hidden = network.normalize(pixels)
            for group in network.groups:
                hidden = group(hidden)
                ends.append(place)
            layer(hidden)
    return ends


def _watched(network: Network) -> list[nn.Module]:
    """The modules whose outputs are layers, each once; one that is called several times is several layers."""
    parts = list(network.groups.modules())
    return [part for part in parts if isinstance(part, ACTIVATIONS)] or [
        part for part in parts if isinstance(part, nn.Conv2d)
    ]
