"""Writing the metadata of a model; `lcprune_runtime.metadata` reads it."""

import json
from dataclasses import asdict

import onnx

from lcprune.errors import ExportError, OnnxModelError
from lcprune_runtime.metadata import MAX_SIDE, PREFIX, ModelInfo, parse
from lcprune_runtime.model_file import MAX_BYTES


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
