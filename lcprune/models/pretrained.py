"""Pretrained weights for external backbones: loaded without executing code, and adapted to the data."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, fx, nn

from lcprune.errors import ModelError
from lcprune.models.backbones import ALIASES, first_convolution, timm_package, torchvision_models
from lcprune.models.network import Network, Normalize
from lcprune.recipe.schema.model import TIMM, TORCHVISION, ModelConfig

WRAPPERS = ("state_dict", "model_state_dict", "model", "network")
"""Keys under which a torch file may store its weights."""
SHOWN = 5
"""Names in an error, at most."""

Weights = dict[str, Tensor]


def load_pretrained(network: Network, config: ModelConfig) -> list[str]:
    """Loads the weights that a recipe names into the backbone; the critics keep theirs.

    A classifier for another number of classes keeps its initial weights. The weights of a first convolution for RGB are
    summed over its inputs for grey images.

    Returns:
        Notices for the user, one line each; empty where the recipe names no weights.

    Raises:
        ModelError: If they cannot be read or downloaded, or belong to another network.
    """
    if config.weights == "none":
        return []
    found, origin = _default(config) if config.weights == "default" else _read(Path(config.weights).expanduser())
    sizes = dict.fromkeys(network.image_sizes)
    of_sizes = [_fit(network.at(size), found, origin) for size in sizes] if sizes else [_fit(network, found, origin)]
    return [f"weights: {origin}", *of_sizes[-1], *_other_normalization(network, config.trunk)]


def _default(config: ModelConfig) -> tuple[Weights, str]:
    if config.trunk.startswith(TIMM):
        return _default_of_timm(config.trunk)
    name = config.trunk.removeprefix(TORCHVISION)
    weights = torchvision_models().get_model_weights(ALIASES.get(name, name)).DEFAULT
    try:
        found: Weights = weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # URLError is an OSError; a wrong hash is a RuntimeError
        raise ModelError(
            f"the default weights of {config.trunk} cannot be downloaded: {error}",
            f"download {weights.url} elsewhere and set model.weights to the file, or set model.weights: none",
        ) from None
    return found, f"{config.trunk}, {weights}"


def _default_of_timm(trunk: str) -> tuple[Weights, str]:
    timm, name = timm_package(), trunk.removeprefix(TIMM)
    cfg = timm.get_pretrained_cfg(name)
    source = f"{name}.{cfg.tag}" if cfg is not None and cfg.tag else name
    try:
        found: Weights = timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # of the file system, the network or its client
        raise ModelError(
            f"the default weights of {trunk} cannot be downloaded: {_first_line(error)}",
            f"download model.safetensors from https://huggingface.co/timm/{source} elsewhere and set model.weights to "
            "the file, or set model.weights: none",
        ) from None
    return found, f"{trunk}, {source}"


def _other_normalization(network: Network, trunk: str) -> list[str]:
    """A notice where timm's weights were trained with another mean or standard deviation."""
    normalize = network.normalize
    if not trunk.startswith(TIMM) or not isinstance(normalize, Normalize) or normalize.mean.numel() != 3:
        return []
    cfg = timm_package().get_pretrained_cfg(trunk.removeprefix(TIMM))
    have = torch.cat([normalize.mean, normalize.std]).flatten()
    if cfg is None or torch.allclose(have, torch.tensor([*cfg.mean, *cfg.std]), atol=1e-4):
        return []
    return [
        f"timm trained this backbone with data.mean: {list(cfg.mean)} and data.std: {list(cfg.std)}; the recipe has "
        "others, which costs accuracy if the weights are timm's"
    ]


def _read(path: Path) -> tuple[Weights, str]:
    if not path.is_file():
        raise ModelError(
            f"model.weights: there is no file {path}", "name a safetensors or torch file, or none, or default"
        )
    try:
        content: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # torch raises many kinds of errors for a damaged file
        kind = "safetensors" if isinstance(error, SafetensorError) else "weights"
        raise ModelError(
            f"model.weights: {path} cannot be read as {kind}: {_first_line(error)}",
            "save it with safetensors, or with torch.save(module.state_dict(), ...)",
        ) from None
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ModelError(
            f"model.weights: {path} is no dictionary of weights by name",
            "save it with torch.save(module.state_dict(), ...)",
        )
    return _plain_names(content), str(path)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


def _plain_names(content: Mapping[str, Tensor]) -> Weights:
    """Weights by their names in the backbone, also from a DistributedDataParallel model or a run's weights file."""
    if any(name.startswith("groups.") for name in content):  # weights.safetensors
        matches = ((re.fullmatch(r"groups\.\d+\.0\.(.+)", name), tensor) for name, tensor in content.items())
        return {match[1]: tensor for match, tensor in matches if match}
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def _fit(network: Network, found: Weights, origin: str) -> list[str]:
    """Copies the weights; returns a line for each adaptation."""
    groups = [part for part in network.groups.modules() if isinstance(part, fx.GraphModule)]
    wanted = {name: tensor for group in groups for name, tensor in group.state_dict().items()}
    notices = _adapt_channels(groups[0], wanted, found)
    classifier = _classifier(groups[-1])
    other = sorted(name for name in wanted if name in found and found[name].shape != wanted[name].shape)
    new = [name for name in other if name.rpartition(".")[0] == classifier]
    if wrong := [name for name in other if name not in new]:
        shapes = [f"{name} {tuple(found[name].shape)} for {tuple(wanted[name].shape)}" for name in wrong]
        raise _unfit(origin, "has other shapes", shapes)
    if missing := [name for name in wanted if name not in found and not name.endswith("num_batches_tracked")]:
        raise _unfit(origin, "does not have", missing)
    if unexpected := [name for name in found if name not in wanted]:
        raise _unfit(origin, "has weights that the backbone does not have", unexpected)
    if new:
        classes = [weights[new[-1]].shape[0] for weights in (found, wanted)]
        notices.append(
            f"the classifier ({classifier}) of {classes[0]} classes is replaced by a new one of {classes[1]}"
        )
    with torch.no_grad():
        for name, tensor in wanted.items():
            if name in found and name not in new:
                tensor.copy_(found[name])
    return notices


def _adapt_channels(first: nn.Module, wanted: Weights, found: Weights) -> list[str]:
    """Adapts the first convolution in `found` to grey images, in place."""
    name = f"{first_convolution(first)[0]}.weight"
    if name not in found or found[name].ndim != 4 or (wanted[name].shape[1], found[name].shape[1]) != (1, 3):
        return []
    found[name] = found[name].sum(dim=1, keepdim=True)
    return [f"the first convolution ({name.removesuffix('.weight')}) reads grey: its weights for RGB are summed"]


def _classifier(group: nn.Module) -> str:
    """Name of the last linear layer or convolution, which computes the logits."""
    names = [name for name, part in group.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)]
    return names[-1] if names else ""


def _unfit(origin: str, what: str, names: Sequence[str]) -> ModelError:
    shown = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
    return ModelError(f"model.weights: {origin} {what}: {shown}", "use weights that were trained with this backbone")
