"""Representational dissimilarity matrices of the layers of a run."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lcprune import runs
from lcprune.analysis.representation import Dissimilarities, dissimilarity, label_ordered
from lcprune.data.loaders import eval_batches
from lcprune.data.sources import Split
from lcprune.models import Network
from lcprune.pipeline import stored
from lcprune_runtime.progress import tracked

BATCH = 50
ACTIVATION_BYTES = 1 << 29
"""Limit of the activations in memory at one time; a single layer may be larger."""

ACTIVATIONS = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Hardswish, nn.Hardtanh, nn.Softplus, nn.Softsign, nn.Tanh, nn.Threshold),
)
"""Modules that end a layer. Sigmoids are left out: in today's backbones they are gates, whose outputs are factors."""

See = Callable[[int, Tensor], None]


def dissimilarities(run: Path, samples: int = 400, data_root: Path | None = None) -> Dissimilarities:
    """The matrices of every layer of a finished run (Figure 5), on its test images or, without any, on others.

    Args:
        run: Its folder.
        samples: How many images, evenly over the classes; the first ones of each.
        data_root: Folder of the images, if they have moved.

    Raises:
        RunError: If the run is not finished.
        DataError: If its images are no longer there.
    """
    folder, recipe = runs.open_run(run)
    network, _ = stored.load_network(folder, recipe)
    dataset, _ = stored.load_dataset(folder, recipe, data_root)
    splits = {"test": dataset.test, "val": dataset.val, "train": dataset.train}
    name = next(name for name, split in splits.items() if len(split))
    return of_network(network, splits[name].subset(label_ordered(splits[name].labels, samples)), name)


def of_network(network: Network, images: Split, split: str) -> Dissimilarities:
    """The matrices of every layer: the output of every activation of the backbone, and the logits of main.

    Each activation ends a convolution of the backbone, or the sum that a residual block begins with. Of a backbone
    without any of the modules `ACTIVATIONS`, such as one that calls functions, the layers are the outputs of its
    convolutions. Of several input sizes it is the largest. The network runs as often as it takes to stay within
    `ACTIVATION_BYTES`, and is left in eval mode.

    Args:
        network: Trained.
        images: The samples, ordered by label.
        split: Where they come from.
    """
    if network.image_sizes:
        network = network.at(network.image_sizes[-1])
    network.eval()
    sizes: list[int] = []
    ends = _run_backbone(network, images.subset(np.arange(1)), lambda _, output: sizes.append(output.numel()))
    matrices = np.empty((len(sizes), len(images), len(images)), dtype=np.float32)
    for places in tracked(_passes([4 * size * len(images) for size in sizes]), "comparing layers"):
        kept: dict[int, list[NDArray[np.float32]]] = {place: [] for place in places}

        def keep(place: int, output: Tensor, kept: dict[int, list[NDArray[np.float32]]] = kept) -> None:
            if place in kept:
                kept[place].append(output.flatten(1).float().cpu().numpy().copy())  # the next layer may overwrite it

        _run_backbone(network, images, keep)
        for place in places:
            matrices[place] = dissimilarity(np.concatenate(kept.pop(place)))  # (N, D)
    return Dissimilarities(
        layers=(*(f"layer {number}" for number in range(1, len(sizes))), "output"),
        matrices=matrices,
        labels=images.labels,
        critic_after=tuple(end - 1 for end in ends[:-1] if end),  # no layer lies before a critic at the very start
        split=split,
    )


def _passes(layer_bytes: Sequence[int]) -> list[list[int]]:
    """Consecutive layers that one pass collects: within `ACTIVATION_BYTES` together, or a single layer."""
    passes: list[list[int]] = []
    held = 0
    for place, size in enumerate(layer_bytes):
        if not passes or held + size > ACTIVATION_BYTES:
            passes.append([])
            held = 0
        passes[-1].append(place)
        held += size
    return passes


def _run_backbone(network: Network, images: Split, see: See) -> list[int]:
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
