"""The network of a run folder, and the facts about its data."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from lcprune import models, runs
from lcprune.data import sources
from lcprune.data.sources import Dataset
from lcprune.errors import RunError
from lcprune.models import Network
from lcprune.recipe import DataConfig, Recipe


@dataclass(frozen=True)
class DataFacts:
    """Facts about the data that a network was trained on."""

    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    """``(C, H, W)``."""
    mean: tuple[float, ...]
    """Per channel, over the training images in 0..1."""
    std: tuple[float, ...]
    val_indices: tuple[int, ...]
    """Which of the training images were held out for validation."""
    folder: str = ""
    """Where the images were found; empty in runs of 0.1."""
    data_root: str = ""
    """In runs of 0.1 the same, if their recipe names no folder."""

    def images_folder(self, config: DataConfig, data_root: Path | None) -> Path:
        """Where the images of the run are: `data_root` if they have moved."""
        return data_root or (Path(self.folder) if self.folder else config.folder(config.root or Path(self.data_root)))


def facts_of(dataset: Dataset, folder: Path) -> DataFacts:
    """The facts of a dataset that was just read."""
    return DataFacts(
        classes=dataset.classes,
        image_shape=dataset.image_shape,
        mean=dataset.mean,
        std=dataset.std,
        val_indices=tuple(int(index) for index in dataset.val_indices),
        folder=str(folder),
    )


def write_facts(folder: Path, facts: DataFacts) -> None:
    """Writes ``dataset.json``."""
    runs.write_text(folder / runs.DATASET, json.dumps(asdict(facts)) + "\n")
    runs.record(folder, runs.DATASET)


def read_facts(folder: Path) -> DataFacts:
    """Reads ``dataset.json``.

    Raises:
        RunError: If it is missing or damaged.
    """
    path = runs.require(folder, runs.DATASET, f"lcprune train {folder / runs.RECIPE}")
    content: dict[str, Any] = runs.read_json(path)
    try:
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in content.items()
        }
        facts = DataFacts(**values)
        _, _, _ = facts.image_shape
    except (AttributeError, TypeError, ValueError) as error:
        raise RunError(f"{path} is damaged ({error})", "train again") from None
    return facts


def load_dataset(
    folder: Path, recipe: Recipe, data_root: Path | None = None, *, download: bool = True
) -> tuple[Dataset, DataFacts]:
    """The images that a run was trained on, from where they were found then, or from `data_root`.

    Raises:
        DataError: If they are no longer there.
        RunError: If they are other ones.
    """
    facts = read_facts(folder)
    images_folder = facts.images_folder(recipe.data, data_root)
    dataset = sources.load(recipe.data, images_folder, recipe.train.seed, download=download)
    if replace(facts_of(dataset, images_folder), folder=facts.folder, data_root=facts.data_root) != facts:
        raise RunError(
            f"the images in {images_folder} are not those that {folder} was trained on",
            "name their folder: --data-root FOLDER; or train again",
        )
    return dataset, facts


def build_network(recipe: Recipe, facts: DataFacts | Dataset) -> Network:
    """The recipe's network with initial weights."""
    return models.build(recipe, len(facts.classes), facts.image_shape, facts.mean, facts.std)


def write_weights(folder: Path, network: Network) -> None:
    """Writes ``weights.safetensors``."""
    shared = network.shared_names
    tensors = {name: tensor for name, tensor in network.state_dict().items() if name not in shared}
    content = save({name: tensor.contiguous().cpu() for name, tensor in tensors.items()})
    with runs.atomic_write(folder / runs.WEIGHTS) as part:
        part.write_bytes(content)
    runs.record(folder, runs.WEIGHTS)


def load_network(folder: Path, recipe: Recipe) -> tuple[Network, DataFacts]:
    """The trained network of a run, in eval mode on the CPU.

    Raises:
        RunError: If the run is not finished, or its files are damaged.
    """
    facts = read_facts(folder)
    path = runs.require(folder, runs.WEIGHTS, f"lcprune resume {folder}")
    network = models.build(recipe, len(facts.classes), facts.image_shape, facts.mean, facts.std)
    try:
        tensors = load_file(path)
        network.load_state_dict(tensors | {name: tensors[first] for name, first in network.shared_names.items()})
    except (SafetensorError, RuntimeError, OSError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RunError(f"{path} does not hold this network ({reason})", "train again") from None
    return network.eval(), facts
