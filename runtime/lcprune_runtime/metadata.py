"""The ``lcprune.*`` metadata of a model file."""

import json
import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from lcprune_runtime.errors import OnnxModelError
from lcprune_runtime.images import Interpolation, Preparation
from lcprune_runtime.model_file import FIX, read_onnx
from lcprune_runtime.specs import CRITERIA, LAYOUTS, Criterion, Layout
from lcprune_runtime.version import __version__

PREFIX = "lcprune."
SEGMENT = "segment"
"""Key that a file has which is only a part of a model."""
MAX_METADATA_CHARACTERS = 4 * 2**20
MAX_SIDE = 4096
"""Height and width of an image for a model, in pixels; its shorter side before a crop may be twice that."""


@dataclass(frozen=True)
class ExitInfo:
    """One exit of a file."""

    name: str
    """``sub-model 1`` .. ``main``, or with several input sizes ``sub-model 1 at 64 px``."""
    exit_index: int
    """In the network that was trained, from 0; a file may hold fewer exits."""
    macs: int
    """Of the stand-alone sub-model."""
    params: int
    """Of the stand-alone sub-model."""
    val_accuracy_pct: float | None = None
    test_accuracy_pct: float | None = None
    image_size: int | None = None
    """Height and width of the image that it works on, in pixels, where a network has several input sizes."""


@dataclass(frozen=True)
class InputInfo:
    """How an image becomes the input ``image``; float32 in 0..1 afterwards."""

    size: int
    """Height and width in pixels."""
    channels: Literal[1, 3]
    """3 for RGB, 1 for grey."""
    resize: Literal["stretch", "shorter_side"] = "stretch"
    """``stretch``: to `size` x `size`, whatever the proportions were; ``shorter_side``: until the shorter side has
    `shorter_side` pixels, the other one rounded down."""
    crop: Literal["none", "center"] = "none"
    """``center``: then the middle `size` x `size` pixels; what is odd stays right and below."""
    interpolation: Interpolation = "bilinear"
    """Over all pixels that are left out (antialiased)."""
    shorter_side: int | None = None
    """In pixels, where `resize` is ``shorter_side``."""

    @classmethod
    def of(cls, preparation: Preparation) -> "InputInfo":
        """The same as `preparation`."""
        stretched = preparation.shorter_side is None
        return cls(
            size=preparation.size,
            channels=preparation.channels,
            resize="stretch" if stretched else "shorter_side",
            crop="none" if stretched else "center",
            interpolation=preparation.interpolation,
            shorter_side=preparation.shorter_side,
        )

    @property
    def preparation(self) -> Preparation:
        """What to do to an image file."""
        return Preparation(self.size, self.channels, self.shorter_side, self.interpolation)


@dataclass(frozen=True)
class ModelInfo:
    """The ``lcprune.*`` metadata of a file."""

    classes: tuple[str, ...]
    mean: tuple[float, ...]
    """Per channel, of images in 0..1; the graph subtracts it by itself."""
    std: tuple[float, ...]
    exits: tuple[ExitInfo, ...]
    """Shallow first; the output ``exit_index`` counts in this list."""
    input: InputInfo
    recipe_sha256: str
    main_macs: int
    """Of main without critics, to which the cost of progressive inference is compared."""
    exit_macs: tuple[int, ...]
    """What a row has cost when it leaves at each exit of this file, in MACs, its critics included."""
    kind: Literal["submodel", "progressive"] = "submodel"
    thresholds: tuple[float, ...] = ()
    """Default threshold of each early exit."""
    temperatures: tuple[float, ...] = ()
    """Temperature of each exit, by which its logits are divided for the score; the output logits are not. 1.0: none."""
    criterion: Criterion = "softmax"
    """Score that is compared with the thresholds."""
    layout: Layout = "nested"
    """How a progressive model runs on the rows that stay: in a branch, or on fewer rows in one flat graph."""
    batch: Literal[1] | None = None
    """How many images the file takes at once; None for any number."""
    version: str = __version__
    """Of the lcprune that wrote the file."""

    @property
    def of_last_exit(self) -> "ModelInfo":
        """The same without early exits."""
        return replace(
            self,
            kind="submodel",
            exits=self.exits[-1:],
            exit_macs=self.exit_macs[-1:],
            thresholds=(),
            temperatures=(1.0,),
            criterion="softmax",
            layout="nested",
            batch=None,
        )


def read_info(path: str | Path) -> ModelInfo:
    """The metadata of a file; see `load_model` for the errors."""
    return load_model(path)[1]


def load_model(path: str | Path) -> tuple[bytes, ModelInfo]:
    """The bytes of a file that is fit to run, and its metadata.

    Raises:
        OnnxModelError: If the file cannot be read, is damaged or not ours, or asks for other files or operators.
    """
    content, properties = read_onnx(Path(path))
    return content, parse(properties, path)


def has_metadata(path: str | Path) -> bool:
    """Whether an ONNX file says what it is; other tools leave lcprune's metadata out of what they make of our files.

    Raises:
        OnnxModelError: As `load_model`.
    """
    return any(key.startswith(PREFIX) for key in read_onnx(Path(path))[1])


def parse(properties: Mapping[str, str], origin: str | Path) -> ModelInfo:
    """The metadata out of the key-value pairs of a model; `origin` names it in errors.

    Raises:
        OnnxModelError: If they are missing or do not fit together.
    """
    if not any(key.startswith(PREFIX) for key in properties):
        raise OnnxModelError(f"{origin} was not written by lcprune: it has no lcprune metadata", FIX)
    if segment := properties.get(PREFIX + SEGMENT):
        raise OnnxModelError(
            f"{origin} is segment {segment} of a model, and does nothing alone",
            "name the folder that it lies in, or its manifest.json",
        )
    if sum(len(value) for key, value in properties.items() if key.startswith(PREFIX)) > MAX_METADATA_CHARACTERS:
        raise OnnxModelError(f"the metadata of {origin} is too long", "export the model again")
    try:
        info = _decode(properties)
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        reason = repr(error)[:200]
        raise OnnxModelError(f"the metadata of {origin} is damaged: {reason}", "export the model again") from None
    early_exits = len(info.exits) - 1 if info.kind == "progressive" else 0
    fits = (
        len(info.exits) == len(info.exit_macs) == len(info.temperatures)
        and len(info.thresholds) == early_exits
        and (info.kind == "progressive") == (len(info.exits) > 1)
        and all(0 < temperature < math.inf for temperature in info.temperatures)
        and len(info.mean) == len(info.std) == info.input.channels
    )
    if not fits or not info.classes:
        raise OnnxModelError(f"the metadata of {origin} contradicts itself", "export the model again")
    return info


def _decode(properties: Mapping[str, str]) -> ModelInfo:
    def value(key: str) -> Any:
        return json.loads(properties[PREFIX + key])

    def numbers(key: str) -> tuple[float, ...]:
        return tuple(_number(number) for number in _list(value(key)))

    kind = properties[PREFIX + "kind"]
    if kind not in ("submodel", "progressive"):
        raise ValueError(f"kind {kind}")
    criterion = properties.get(PREFIX + "criterion", "softmax")  # absent in files of 0.1
    if criterion not in CRITERIA:
        raise ValueError(f"criterion {criterion}")
    layout = properties.get(PREFIX + "layout") or properties.get(PREFIX + "form", "nested")  # as 0.1 called it
    batch = json.loads(properties.get(PREFIX + "batch", "null"))
    if layout not in LAYOUTS or batch not in (None, 1):
        raise ValueError(f"layout {layout}, batch {batch}")
    return ModelInfo(
        classes=tuple(_name(name) for name in _list(value("classes"))),
        mean=numbers("mean"),
        std=numbers("std"),
        exits=tuple(_exit(entry) for entry in _list(value("exits"))),
        input=_input(value("input")),
        recipe_sha256=_name(properties[PREFIX + "recipe_sha256"]),
        main_macs=_count(value("main_macs"), least=1),
        exit_macs=tuple(_count(macs) for macs in _list(value("exit_macs"))),
        kind="progressive" if kind == "progressive" else "submodel",
        thresholds=numbers("thresholds"),
        temperatures=numbers("temperatures"),
        criterion=criterion,
        layout=layout,
        batch=None if batch is None else 1,
        version=_name(properties[PREFIX + "version"]),
    )


def _exit(entry: Any) -> ExitInfo:
    known = ExitInfo(**entry)
    _name(known.name)
    for count in (known.exit_index, known.macs, known.params, known.image_size or 0):
        _count(count)
    for accuracy in (known.val_accuracy_pct, known.test_accuracy_pct):
        if accuracy is not None and not 0 <= _number(accuracy) <= 100:
            raise ValueError(f"accuracy {accuracy}")
    return known


def _input(entry: Any) -> InputInfo:
    wanted = InputInfo(**entry)
    side, shorter_side = wanted.size, wanted.shorter_side
    _count(side, least=1, most=MAX_SIDE)
    if shorter_side is not None:
        _count(shorter_side, least=side, most=2 * MAX_SIDE)
    if _count(wanted.channels) not in (1, 3) or wanted.interpolation not in get_args(Interpolation):
        raise ValueError(f"channels {wanted.channels}, interpolation {wanted.interpolation}")
    if wanted != InputInfo.of(wanted.preparation):
        raise ValueError(f"resize {wanted.resize}, crop {wanted.crop}, shorter_side {shorter_side}")
    return wanted


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{str(value)[:40]!r} is no list")
    return value


def _name(value: Any) -> str:
    """What is printed: a terminal obeys control characters."""
    if not isinstance(value, str) or any(unicodedata.category(sign) in ("Cc", "Cs") for sign in value):
        raise ValueError(f"{str(value)[:40]!r} is no name")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise ValueError(f"{str(value)[:40]!r} is no number")
    return float(value)


def _count(value: Any, least: int = 0, most: int = 2**63 - 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{str(value)[:40]!r} is no whole number from {least} to {most}")
    return value
