"""Trunks from elsewhere: torchvision's classifiers, and a user's own, cut into layer groups."""

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from lcprune.errors import ModelError, torchvision_needed
from lcprune.models import tracing
from lcprune.models.tracing import Cuts
from lcprune.models.trunk import Shape
from lcprune.recipe.schema.model import TORCHVISION, ModelConfig

ALIASES = {"shufflenet_v2": "shufflenet_v2_x1_0"}


@dataclass(frozen=True)
class Cutting:
    """Where a trunk from elsewhere can be cut, and where ``cuts: auto`` does it."""

    cuts: Cuts
    chosen: tuple[str, ...]
    """Names of places, shallow first."""


def build_backbone(
    config: ModelConfig, image_shape: Shape, classes: int, *, cuts: Sequence[int], seed: int
) -> tuple[list[nn.Sequential], list[Shape]]:
    """The layer groups, and the shape ``(C, H, W)`` at each cut.

    A group is an `nn.Sequential` of one `fx.GraphModule`, in which layers have the names that they have in the trunk.

    Args:
        config: Names the trunk and the places where it can be cut.
        image_shape: ``(C, H, W)`` of an image.
        classes: Number of logits.
        cuts: Which of the places end a group, counted from 1.
        seed: Of the initial weights, where the trunk draws some.

    Raises:
        ModelError: If there is no such trunk, it cannot be cut there, or its groups do not compute what it does.
    """
    module = make(config.trunk, classes, image_shape, seed)
    image = _example(image_shape)
    graph, names = _graph_and_places(module, config, image)
    if outside := [place for place in cuts if place > len(names)]:
        raise ModelError(
            f"critics.after: {outside} is not inside the trunk, which has {len(names)} cuts ({', '.join(names)})",
            f"write places from 1 to {len(names)}, or leave critics.after out",
        )
    kept = [names[place - 1] for place in cuts]
    mode = module.training
    groups = tracing.split(graph, kept)
    shapes = tracing.check(module, groups, image, classes)
    for group, name in zip(groups, [*kept, None], strict=True):
        group.train(mode)
        group.meta["ends_at"] = name
    return [nn.Sequential(group) for group in groups], shapes


def cut_names(groups: Iterable[nn.Module]) -> tuple[str, ...]:
    """Where the groups of a trunk from elsewhere end, without the last; nothing for any other trunk."""
    graphs = [part for group in groups for part in group.modules() if isinstance(part, fx.GraphModule)]
    return tuple(graph.meta["ends_at"] for graph in graphs if graph.meta.get("ends_at"))


def find_cutting(trunk: str, classes: int, image_shape: Shape, groups: int) -> Cutting:
    """Where a trunk can be cut, and where ``cuts: auto`` would cut it into `groups`; fewer where that is too many.

    Raises:
        ModelError: If there is no such trunk, or it cannot be recorded.
    """
    module = make(trunk, classes, image_shape, seed=0)
    by_child = _is_of_groups(module)
    cuts = tracing.find_cuts(tracing.record(module), _example(image_shape))
    if by_child:
        return Cutting(cuts, tuple(name for name, _ in module.named_children())[:-1])
    return Cutting(cuts, tracing.balanced(cuts, min(groups, len(cuts.places) + 1)))


def make(trunk: str, classes: int, image_shape: Shape, seed: int) -> nn.Module:
    """A trunk as a whole, with initial weights; torch's global generator is left alone.

    Args:
        trunk: ``torchvision/NAME`` or ``package.module:callable``.
        classes: Number of logits.
        image_shape: ``(C, H, W)`` of an image.
        seed: Of the initial weights.

    Raises:
        ModelError: If there is no such trunk.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if trunk.startswith(TORCHVISION):
            return _from_torchvision(trunk.removeprefix(TORCHVISION), classes, image_shape[0])
        return _from_user(trunk, classes, image_shape)


def _graph_and_places(module: nn.Module, config: ModelConfig, image: Tensor) -> tuple[tracing.Graph, tuple[str, ...]]:
    if config.cuts == "auto" and _is_of_groups(module):
        names = tuple(name for name, _ in module.named_children())
        if len(names) != config.groups:
            raise ModelError(
                f"{config.trunk} gives an nn.Sequential of {len(names)} groups, but model.groups is {config.groups}",
                f"set model.groups: {len(names)}, or name the places: model.cuts",
            )
        return tracing.record(module, children_whole=True), names[:-1]
    graph = tracing.record(module)
    if config.cuts != "auto":
        return graph, config.cuts
    mode = module.training
    cuts = tracing.find_cuts(graph, image)
    module.train(mode)
    return graph, tracing.balanced(cuts, config.groups)


def _is_of_groups(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential)


def _example(image_shape: Shape) -> Tensor:
    return torch.randn(1, *image_shape, generator=torch.Generator().manual_seed(0))


def _from_torchvision(name: str, classes: int, channels: int) -> nn.Module:
    models = torchvision_models()
    name = ALIASES.get(name, name)
    known = models.list_models(module=models)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(TORCHVISION + each for each in near)}?" if near else f"there are {known}"
        raise ModelError(f"torchvision has no classifier {name}", hint)
    module: nn.Module = models.get_model(name, weights=None, num_classes=classes)
    if channels != 3:
        _read_channels(module, name, channels)
    return module


def torchvision_models() -> Any:
    """``torchvision.models``.

    Raises:
        SetupError: If torchvision does not fit the installed torch.
    """
    with torchvision_needed():
        from torchvision import models
    return models


def first_convolution(module: nn.Module) -> tuple[str, nn.Conv2d]:
    """Name and layer of what reads the image.

    Raises:
        ModelError: If there is no convolution.
    """
    for name, part in module.named_modules():
        if isinstance(part, nn.Conv2d):
            return name, part
    raise ModelError(f"{type(module).__name__} has no convolution", "take a trunk that begins with one")


def _read_channels(module: nn.Module, trunk: str, channels: int) -> None:
    """Gives a module that reads RGB another first convolution."""
    name, convolution = first_convolution(module)
    old: Any = convolution  # its sizes may be numbers or tuples
    if old.in_channels != 3 or old.groups != 1:
        raise ModelError(f"torchvision/{trunk} cannot read images of {channels} channels", "set data.channels: 3")
    sizes = (old.kernel_size, old.stride, old.padding, old.dilation)
    new = nn.Conv2d(channels, old.out_channels, *sizes, bias=old.bias is not None)
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, new)


def _from_user(trunk: str, classes: int, image_shape: Shape) -> nn.Module:
    build = _imported(trunk)
    options: dict[str, Any] = {"classes": classes}
    if _accepts(build, "image_shape"):
        options["image_shape"] = image_shape
    try:
        module = build(**options)
    except Exception as error:  # whatever the user's own code raises
        raise ModelError(
            f"{trunk} failed: {type(error).__name__}: {error}",
            f"it is called with {', '.join(f'{key}={value}' for key, value in options.items())}",
        ) from error
    if not isinstance(module, nn.Module):
        raise ModelError(f"{trunk} gives a {type(module).__name__}, not an nn.Module", "return the trunk")
    return module


def _imported(trunk: str) -> Callable[..., Any]:
    name, _, attribute = trunk.partition(":")
    try:
        with _current_folder_first():
            module = importlib.import_module(name)
    except Exception as error:  # whatever the user's own code raises
        raise ModelError(
            f"model.trunk: {name} cannot be imported: {type(error).__name__}: {error}",
            f"fix it, or run lcprune in the folder that holds {name.partition('.')[0]}",
        ) from error
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ModelError(f"model.trunk: {name} has no {attribute}", f"write {name}:FUNCTION")
        found = getattr(found, part)
    if not callable(found):
        raise ModelError(f"model.trunk: {trunk} cannot be called", "name a function or a class that gives the trunk")
    build: Callable[..., Any] = found
    return build


@contextmanager
def _current_folder_first() -> Iterator[None]:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(here)


def _accepts(build: Callable[..., Any], name: str) -> bool:
    try:
        parameters = inspect.signature(build).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(parameter.name == name or parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
