"""The stages of a progressive model as files of their own, for hosts that decide themselves which images go on.

Accelerators of phones take no graph that branches and none whose rows get fewer, but they take each stage. A file is
one stage and the score of its exit; ``manifest.json`` describes how they fit together. Tensors are matched by name: an
output of one file is the input of that name of a later one, so a host keeps them all and drops the rows that leave.
"""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from lcprune.errors import ExportError
from lcprune.exporters.graphs import Part, node
from lcprune.exporters.parts import Incoming, Plan, inline, nan_guard
from lcprune.exporters.single import fixed_batch
from lcprune.exporters.verify import Parity, Reference, check_parity, writable
from lcprune_runtime.metadata import PREFIX, SEGMENT, ModelInfo
from lcprune_runtime.segment_session import FORMAT, MANIFEST


def write_segments(stages: Sequence[ModelProto], reference: Reference, folder: Path, info: ModelInfo) -> Parity:
    """Writes one file for each stage and the manifest, run together and checked before the folder gets its name.

    Args:
        stages: Of a progressive model, main last.
        reference: What the exits should give.
        folder: One that is there is replaced.
        info: Of the progressive model, complete.

    Raises:
        ExportError: If the files do not do together what the stages do, or cannot be written.
    """
    part = folder.with_name(folder.name + ".part")
    try:
        with writable(folder):
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            _write(stages, part, info)
            parity = check_parity(part, reference, info.thresholds)
            if folder.exists():
                shutil.rmtree(folder)
            part.replace(folder)
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(part)
    return parity


def _write(stages: Sequence[ModelProto], folder: Path, info: ModelInfo) -> None:
    if info.batch is not None:
        stages = [fixed_batch(stage) for stage in stages]
    thresholds = [*map(_float32, info.thresholds), None]
    entries = []
    for k, (threshold, temperature) in enumerate(zip(thresholds, info.temperatures, strict=True)):
        model = segment(stages, k, info)
        content = model.SerializeToString(deterministic=True)
        path = folder / f"segment-{k + 1}.onnx"
        path.write_bytes(content)
        entries.append(
            {
                "file": path.name,
                "sha256": hashlib.sha256(content).hexdigest(),
                "size_bytes": len(content),
                "exit": info.exits[k].name,
                "threshold": threshold,
                "temperature": temperature,
                "inputs": [_described(value) for value in model.graph.input],
                "outputs": [_described(value) for value in model.graph.output],
            }
        )
    manifest = {"format": FORMAT, "criterion": info.criterion, "segments": entries, "metadata": asdict(info)}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def _float32(threshold: float) -> float:
    """The number that the graph compares with."""
    return float(np.float32(threshold))


@dataclass(frozen=True)
class _Value:
    """An input or output."""

    name: str
    type: int
    shape: Sequence[str | int]

    def info(self) -> ValueInfoProto:
        """As in a graph."""
        return helper.make_tensor_value_info(self.name, self.type, self.shape)


def segment(stages: Sequence[ModelProto], k: int, info: ModelInfo) -> ModelProto:
    """Stage `k`, from 0, with outputs ``logits`` and ``confidence`` and, unless it is main, ``hidden.{k + 1}``.

    ``nan_guard`` ``(N,)``, of the first one, and ``class.{k + 1}`` ``(N,)``, with the criterion ``agreement``, are
    outputs for the exits that need them. Main's confidence with that criterion is its largest probability.

    Raises:
        ExportError: If the result is not valid ONNX.
    """
    stage, last = stages[k], len(stages) - 1
    criterion = "softmax" if k == last and info.criterion == "agreement" else info.criterion
    plan = replace(Plan(stages, info.criterion, info.temperatures), criterion=criterion)
    asks_for_class = criterion == "agreement"
    first = stage.graph.input[0]
    batch = _shape(first)[0]
    inputs = [
        _Value("image" if plan.reads_image(k) else f"hidden.{k}", first.type.tensor_type.elem_type, _shape(first))
    ]
    outputs = [_Value(value, TensorProto.FLOAT, shape) for value, shape in _results(stages, batch)]
    if not plan.reads_image(k + 1):
        hidden = stage.graph.output[0]
        outputs.insert(0, _Value(f"hidden.{k + 1}", hidden.type.tensor_type.elem_type, _shape(hidden)))
    if 0 < k < last:
        inputs.append(_Value("nan_guard", TensorProto.FLOAT, [batch]))
    if k == 0 and last > 1:
        outputs.append(_Value("nan_guard", TensorProto.FLOAT, [batch]))
    if asks_for_class and k > 0:
        inputs.append(_Value(f"class.{k}", TensorProto.INT64, [batch]))
    if asks_for_class and k < last - 1:
        outputs.append(_Value(f"class.{k + 1}", TensorProto.INT64, [batch]))
    classes = f"class.{k}" if asks_for_class and k > 0 else None
    nodes, initializers = _segment_nodes(plan, k, Incoming(inputs[0].name, "nan_guard", classes))
    graph = helper.make_graph(
        nodes, "lcprune", [value.info() for value in inputs], [value.info() for value in outputs], initializers
    )
    model = helper.make_model(
        graph, opset_imports=stage.opset_import, ir_version=stage.ir_version, producer_name="lcprune"
    )
    about = {SEGMENT: f"{k + 1} of {last + 1}", "recipe_sha256": info.recipe_sha256, "version": info.version}
    for key, value in sorted(about.items()):
        model.metadata_props.add(key=PREFIX + key, value=value)
    return _valid(model)


def _segment_nodes(plan: Plan, k: int, incoming: Incoming) -> Part:
    last = len(plan.stages) - 1
    ends = [f"hidden.{k + 1}", "logits"][-len(plan.stages[k].graph.output) :]
    nodes, initializers = inline(plan.stages[k], "stage.", incoming.hidden, ends)
    if k == 0:
        of_image, constants = nan_guard(incoming.hidden)
        nodes, initializers = [*of_image, *nodes], [*constants, *initializers]
    score, constants = plan.score(k, incoming.classes, "logits")
    confidence = (
        node("Identity", [f"exit{k}.score"], "confidence")
        if k == last
        else node("Add", [f"exit{k}.score", incoming.nan_guard], "confidence")
    )
    handed: list[NodeProto] = []
    if plan.criterion == "agreement" and k < last - 1:
        handed.append(node("Identity", [f"exit{k}.class"], f"class.{k + 1}"))
    return [*nodes, *score, confidence, *handed], [*initializers, *constants]


def _results(stages: Sequence[ModelProto], batch: str | int) -> list[tuple[str, list[str | int]]]:
    """Names and shapes of the outputs that every segment has."""
    classes = stages[-1].graph.output[0].type.tensor_type.shape.dim[1].dim_value
    return [("logits", [batch, classes]), ("confidence", [batch])]


def _shape(value: ValueInfoProto) -> list[str | int]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def _described(value: ValueInfoProto) -> dict[str, Any]:
    kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    return {"name": value.name, "type": str(kind), "shape": _shape(value)}


def _valid(model: ModelProto) -> ModelProto:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"a segment is not valid ONNX: {error}", "report this, with the recipe") from error
    return model
