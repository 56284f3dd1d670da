"""What an ONNX file says about itself, and whether it may be trusted with a runtime. Needs no torch."""

import json
import math
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import onnx

from lcprune import __version__
from lcprune.data.images import Interpolation, Preparation
from lcprune.errors import ExportError, OnnxModelError
from lcprune.exporters.graphs import subgraphs
from lcprune.specs import CRITERIA, Criterion, Layout

PREFIX = "lcprune."
SEGMENT = "segment"
"""Key that a file has which is only a part of a model."""
DOMAINS = {"", "ai.onnx", "com.microsoft"}
FILE_READERS = {"EPContext"}
"""Operators that name a file which onnxruntime opens."""
MAX_BYTES = 2**30
"""Of a model file."""
MAX_METADATA_CHARACTERS = 4 * 2**20
MAX_SIDE = 4096
"""Height and width of an image for a model, in pixels; its shorter side before a crop may be twice that."""
_FIX = "give an .onnx file that `lcprune export` wrote"


@dataclass(frozen=True)
class ExitInfo:
    """One exit of a file."""

    name: str
    """``sub-model 1`` .. ``main``."""
    exit_index: int
    """In the network that was trained, from 0; a file may hold fewer exits."""
    macs: int
    """Of the stand-alone sub-model."""
    params: int
    """Of the stand-alone sub-model."""
    val_accuracy_pct: float | None = None
    test_accuracy_pct: float | None = None


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
        """What says the same as `preparation`."""
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
    """Of main without critics: what progressive inference is held against."""
    exit_macs: tuple[int, ...]
    """What a row has cost when it leaves at each exit of this file, in MACs, its critics included."""
    kind: Literal["submodel", "progressive"] = "submodel"
    thresholds: tuple[float, ...] = ()
    """Default threshold of each early exit."""
    temperatures: tuple[float, ...] = ()
    """Of each exit; its logits are divided by it where their score is taken, and nowhere else. 1.0 is as trained."""
    criterion: Criterion = "softmax"
    """What is held against the thresholds."""
    layout: Layout = "nested"
    """How a progressive model runs on the rows that stay: in a branch, or on fewer rows in one flat graph."""
    batch: Literal[1] | None = None
    """How many images the file takes at once; None for any number."""
    version: str = __version__
    """Of the lcprune that wrote the file."""


def attach(model: onnx.ModelProto, info: ModelInfo) -> None:
    """Writes `info` into a model, replacing what was there."""
    del model.metadata_props[:]
    for key, value in sorted(asdict(info).items()):
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        model.metadata_props.add(key=PREFIX + key, value=text)


def refuse_unreadable(model: onnx.ModelProto) -> None:
    """Refuses to write what `load_model` would refuse to read.

    Raises:
        ExportError: If the model is too large, or its metadata breaks a limit.
    """
    if (size := model.ByteSize()) > MAX_BYTES:
        raise ExportError(
            f"the model has {size:,} bytes, and a file of more than {MAX_BYTES:,} could not be opened again",
            "export a smaller sub-model, or with --precision int8, fp16 or w8",
        )
    try:
        parse({entry.key: entry.value for entry in model.metadata_props}, "the model")
    except OnnxModelError as error:
        raise ExportError(
            f"the file could not be opened again: {error.problem}",
            f"train with names of classes that can be printed, and images of {MAX_SIDE} pixels a side at most",
        ) from None


def read_info(path: str | Path) -> ModelInfo:
    """The metadata of a file; see `load_model` for the errors."""
    return load_model(path)[1]


def load_model(path: str | Path) -> tuple[bytes, ModelInfo]:
    """The bytes of a file that is fit to run, and its metadata.

    Raises:
        OnnxModelError: If the file cannot be read, is damaged or not ours, or asks for other files or operators.
    """
    content, model = read_model(path)
    properties = {prop.key: prop.value for prop in model.metadata_props}
    if not all(isinstance(text, str) for pair in properties.items() for text in pair):  # bytes, where it is no UTF-8
        raise OnnxModelError(f"the metadata of {path} is damaged: it is no text", "export the model again")
    return content, parse(properties, path)


def read_model(path: str | Path) -> tuple[bytes, onnx.ModelProto]:
    """The bytes of an ONNX file that is fit to run, ours or not, and what they say.

    Raises:
        OnnxModelError: If the file cannot be read or is damaged, or asks for other files or operators.
    """
    path = Path(path)
    content = read_content(path)
    try:
        model = onnx.ModelProto.FromString(content)
    except Exception:  # protobuf's DecodeError, which it calls by another name in each of its implementations
        raise OnnxModelError(f"{path} is no ONNX model, or it is damaged", _FIX) from None
    if not model.graph.node:
        raise OnnxModelError(f"{path} is no ONNX model, or it is damaged", _FIX)
    _refuse_foreign(model, path)
    return content, model


def read_content(path: Path, most: int = MAX_BYTES) -> bytes:
    """The bytes of a model file, of whatever format, at `most` so many.

    Raises:
        OnnxModelError: If it cannot be read, is no file, or is too large.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe or a device would never end
            raise OnnxModelError(f"{path} cannot be read: it is no file", _FIX)
        with path.open("rb") as file:
            content = file.read(most + 1) if path.stat().st_size <= most else None
    except OSError as error:
        raise OnnxModelError(f"{path} cannot be read: {error.strerror}", _FIX) from None
    if content is None or len(content) > most:
        raise OnnxModelError(f"{path} is too large: it has more than {most:,} bytes", _FIX)
    return content


def parse(properties: Mapping[str, str], origin: str | Path) -> ModelInfo:
    """The metadata out of the key-value pairs of a model; `origin` names it in errors.

    Raises:
        OnnxModelError: If they are missing or do not fit together.
    """
    if not any(key.startswith(PREFIX) for key in properties):
        raise OnnxModelError(f"{origin} was not written by lcprune: it has no lcprune metadata", _FIX)
    if segment := properties.get(PREFIX + SEGMENT):
        raise OnnxModelError(
            f"{origin} is segment {segment} of a model, and says nothing alone",
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
    criterion = properties.get(PREFIX + "criterion", "softmax")  # files of 0.1 do not say
    if criterion not in CRITERIA:
        raise ValueError(f"criterion {criterion}")
    layout = properties.get(PREFIX + "layout") or properties.get(PREFIX + "form", "nested")  # as 0.1 called it
    batch = json.loads(properties.get(PREFIX + "batch", "null"))
    if layout not in ("nested", "flat") or batch not in (None, 1):
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
        layout="flat" if layout == "flat" else "nested",
        batch=None if batch is None else 1,
        version=_name(properties[PREFIX + "version"]),
    )


def _exit(entry: Any) -> ExitInfo:
    known = ExitInfo(**entry)
    _name(known.name)
    for count in (known.exit_index, known.macs, known.params):
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


def _refuse_foreign(model: onnx.ModelProto, path: Path) -> None:
    """A file that we wrote needs no other file and no operators from elsewhere; one that does may be an attack."""
    if model.functions or model.training_info:
        raise OnnxModelError(f"{path} brings functions or training of its own, which is refused", _FIX)
    domains = {entry.domain for entry in model.opset_import}
    for graph in subgraphs(model.graph):
        domains |= {node.domain for node in graph.node}
        if readers := {node.op_type for node in graph.node} & FILE_READERS:
            raise OnnxModelError(f"{path} has the operator {min(readers)}, which opens files and is refused", _FIX)
        tensors = [*graph.initializer, *_attribute_tensors(graph)]
        sparse = [part for tensor in graph.sparse_initializer for part in (tensor.values, tensor.indices)]
        if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in [*tensors, *sparse]):
            raise OnnxModelError(f"{path} keeps its weights in other files, which is refused", _FIX)
    if foreign := domains - DOMAINS:
        named = ", ".join(sorted(str(domain)[:100] for domain in foreign))  # one that is no UTF-8 is bytes
        raise OnnxModelError(f"{path} needs operators of {named}, which is refused", _FIX)


def _attribute_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    for node in graph.node:
        for attribute in node.attribute:
            yield from (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors)
