"""External backbones: classifiers of torchvision and timm and the user's own modules, cut into layer groups."""

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, fx, nn

from lcprune.errors import ModelError, SetupError, torchvision_needed
from lcprune.models import cutting, tracing
from lcprune.models.cutting import Cuts
from lcprune.models.trunk import Shape
from lcprune.recipe.schema.model import TIMM, TORCHVISION, ModelConfig

SHOWN = 100
"""Names in an error, at most."""
ALIASES = {"shufflenet_v2": "shufflenet_v2_x1_0"}


def build_backbone(
    config: ModelConfig, image_shape: Shape, classes: int, *, cuts: Sequence[int], seed: int
) -> tuple[list[nn.Sequential], list[Shape]]:
    """The layer groups, and the shape ``(C, H, W)`` at each cut.

    A group is an `nn.Sequential` of one `fx.GraphModule`, in which layers keep their names of the backbone.

    Args:
        config: Names the backbone and the places where it can be cut.
        image_shape: ``(C, H, W)`` of an image.
        classes: Number of logits.
        cuts: Which of the places end a group, counted from 1.
        seed: Of the initial weights, where the backbone draws some.

    Raises:
        ModelError: If there is no such backbone, it cannot be cut there, or its groups compute something else.
    """
    module = make(config.trunk, classes, image_shape, seed)
    image = _example(image_shape)
    graph, names = _graph_and_places(module, config, image)
    if outside := [place for place in cuts if place > len(names)]:
        raise ModelError(
            f"critics.after: {outside} is not inside the backbone, which has {len(names)} cuts ({', '.join(names)})",
            f"write places from 1 to {len(names)}, or leave critics.after out",
        )
    kept = [names[place - 1] for place in cuts]
    mode = module.training
    groups = cutting.split(graph, kept)
    shapes = cutting.check(module, groups, image, classes)
    for group, name in zip(groups, [*kept, None], strict=True):
        group.train(mode)
        group.meta["ends_at"] = name
    return [nn.Sequential(group) for group in groups], shapes


def cut_names(groups: Iterable[nn.Module]) -> tuple[str, ...]:
    """Names of the places where the groups of an external backbone end, without the last; empty for other backbones."""
    graphs = [part for group in groups for part in group.modules() if isinstance(part, fx.GraphModule)]
    return tuple(graph.meta["ends_at"] for graph in graphs if graph.meta.get("ends_at"))


def find_cuts(trunk: str, classes: int, image_shape: Shape, groups: int) -> tuple[Cuts, tuple[str, ...]]:
    """Where a backbone can be cut, and the names of the places where ``cuts: auto`` would cut it into `groups`.

    Where there are too few places, it would cut at all of them.

    Raises:
        ModelError: If there is no such backbone, or it cannot be traced.
    """
    module = make(trunk, classes, image_shape, seed=0)
    cuts = cutting.find_cuts(tracing.record(module), _example(image_shape))
    if isinstance(module, nn.Sequential):
        return cuts, tuple(name for name, _ in module.named_children())[:-1]
    return cuts, cutting.balanced(cuts, min(groups, len(cuts.places) + 1), in_blocks=False)


def auto_cuts(
    trunk: str, groups: int, classes: int, image_shape: Shape, seed: int
) -> tuple[str, ...] | Literal["auto"]:
    """Names of the places where ``cuts: auto`` makes `groups` of a backbone, which a run keeps whatever changes later.

    ``auto`` for an `nn.Sequential`, which is cut already.

    Raises:
        ModelError: If there is no such backbone, or it has too few places.
    """
    module = make(trunk, classes, image_shape, seed)
    if isinstance(module, nn.Sequential):
        return "auto"
    cuts = cutting.find_cuts(tracing.record(module), _example(image_shape))
    return cutting.balanced(cuts, groups, in_blocks=False)


def make(trunk: str, classes: int, image_shape: Shape, seed: int) -> nn.Module:
    """A backbone as a whole, with initial weights; the state of torch's global generator is kept.

    Args:
        trunk: ``torchvision/NAME``, ``timm/NAME`` or ``package.module:callable``.
        classes: Number of logits.
        image_shape: ``(C, H, W)`` of an image.
        seed: Of the initial weights.

    Raises:
        ModelError: If there is no such backbone.
        SetupError: If the package that it is from is missing.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if trunk.startswith(TORCHVISION):
            return _from_torchvision(trunk.removeprefix(TORCHVISION), classes, image_shape[0])
        if trunk.startswith(TIMM):
            return _from_timm(trunk.removeprefix(TIMM), classes, image_shape[0])
        return _from_user(trunk, classes, image_shape)


def _graph_and_places(module: nn.Module, config: ModelConfig, image: Tensor) -> tuple[tracing.Graph, tuple[str, ...]]:
    if config.cuts == "auto" and isinstance(module, nn.Sequential):
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
    cuts = cutting.find_cuts(graph, image)
    module.train(mode)
    return graph, cutting.balanced(cuts, config.groups, in_blocks=True)  # a run of 0.1; see `auto_cuts`


def _example(image_shape: Shape) -> Tensor:
    return torch.randn(1, *image_shape, generator=torch.Generator().manual_seed(0))


def _from_torchvision(name: str, classes: int, channels: int) -> nn.Module:
    models = torchvision_models()
    name = ALIASES.get(name, name)
    _refuse_unknown(TORCHVISION, name, models.list_models(module=models))
    module: nn.Module = models.get_model(name, weights=None, num_classes=classes)
    if channels != 3:
        _read_channels(module, name, channels)
    return module


def _from_timm(name: str, classes: int, channels: int) -> nn.Module:
    timm = timm_package()
    _refuse_unknown(TIMM, name, [*timm.list_models(), *timm.list_pretrained()])  # these have tags: resnet18.a1_in1k
    module: Any = timm.create_model(name, num_classes=classes, in_chans=channels)
    if getattr(module, "drop_rate", 0):  # of F.dropout in its own forward pass, which cannot be cut
        module.drop_rate = 0.0
    return cast(nn.Module, module)


def _refuse_unknown(zoo: str, name: str, known: Sequence[str]) -> None:
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=3)
    names = " or ".join(zoo + each for each in near)
    shown = ", ".join(known[:SHOWN]) + (f" and {len(known) - SHOWN} more" if len(known) > SHOWN else "")
    hint = f"did you mean {names}?" if near else f"there are {shown}"
    raise ModelError(f"{zoo.removesuffix('/')} has no classifier {name}", hint)


def timm_package() -> Any:
    """``timm``, an extra.

    Raises:
        SetupError: If it is not installed.
    """
    try:
        import timm
    except ImportError as error:
        raise SetupError(
            f"{TIMM} trunks need the package timm: {error}", "pip install timm, or name one of torchvision's"
        ) from None
    return timm


def torchvision_models() -> Any:
    """``torchvision.models``.

    Raises:
        SetupError: If torchvision is not installed, or does not fit the installed torch.
    """
    with torchvision_needed():
        from torchvision import models
    return models


def first_convolution(module: nn.Module) -> tuple[str, nn.Conv2d]:
    """Name and module of the first convolution.

    Raises:
        ModelError: If there is no convolution.
    """
    for name, part in module.named_modules():
        if isinstance(part, nn.Conv2d):
            return name, part
    raise ModelError(f"{type(module).__name__} has no convolution", "use a backbone that begins with one")


def _read_channels(module: nn.Module, trunk: str, channels: int) -> None:
    """Replaces the first convolution of a module that reads RGB."""
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
    except Exception as error:  # any error of the user's code
        raise ModelError(
            f"{trunk} failed: {type(error).__name__}: {error}",
            f"it is called with {', '.join(f'{key}={value}' for key, value in options.items())}",
        ) from error
    if not isinstance(module, nn.Module):
        raise ModelError(f"{trunk} gives a {type(module).__name__}, not an nn.Module", "return the backbone")
    return module


def _imported(trunk: str) -> Callable[..., Any]:
    name, _, attribute = trunk.partition(":")
    try:
        with _current_folder_first():
            module = importlib.import_module(name)
    except Exception as error:  # any error of the user's code
        raise ModelError(
            f"model.trunk: {name} cannot be imported: {type(error).__name__}: {error}",
            f"fix it, or run lcprune in the folder that contains {name.partition('.')[0]}",
        ) from error
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ModelError(f"model.trunk: {name} has no {attribute}", f"write {name}:FUNCTION")
        found = getattr(found, part)
    if not callable(found):
        raise ModelError(
            f"model.trunk: {trunk} cannot be called", "name a function or a class that returns the backbone"
        )
    return found  # type: ignore[no-any-return]


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
