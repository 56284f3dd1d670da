"""A model card: Markdown beside an exported file, with the YAML header that model hubs read."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lcprune.exporters.metadata import ModelInfo
from lcprune.recipe import Recipe
from lcprune.reporting.tables import NOT_KNOWN, forecast, kilobytes, millions, percent, share
from lcprune.specs import CRITERIA, METHODS, PRECISIONS, format_of

_HUB_DATASETS = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}
_DATA = {
    "digits": "the 1,797 handwritten digits of the UCI repository's test part (8 x 8 pixels, grey; CC BY 4.0)",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "imagefolder": "a folder of images that is not published here",
    "manifest": "images listed in a table that is not published here",
    "imagenet": "ImageNet",
}


def model_card(path: Path, info: ModelInfo, result: Mapping[str, Any], recipe: Recipe) -> str:
    """The card of one export. It names no folder of this machine.

    Args:
        path: Of the exported file; its name alone is used.
        info: What the file says of itself.
        result: What the export says of it, as in ``lcprune export --json``.
        recipe: That the network was trained with.
    """
    parts = [
        _header(path, info, result, recipe),
        f"# {recipe.name}: {_title(info, recipe)}\n\n{_summary(info, result, recipe)}",
        f"## Accuracy and cost\n\n{_table(info, result)}\n\n{_outcome(info, result)}",
        f"## Data and training\n\n{_training(info, recipe)}",
        f"## Numbers\n\n{_numbers(result)}",
        f"## Files\n\n{_files(path, result)}",
        f"## How to run it\n\n{_usage(path, info, result)}",
        f"## Limits\n\n{_limits(info, result, recipe)}",
    ]
    return "\n\n".join(parts) + "\n"


def _header(path: Path, info: ModelInfo, result: Mapping[str, Any], recipe: Recipe) -> str:
    """YAML; every value is written as JSON, which YAML reads."""
    progressive = ["early-exit", "adaptive-inference"] if info.kind == "progressive" else []
    tags = ["onnx", "onnxruntime", "image-classification", *progressive, "lcprune", result["precision"]]
    fields: dict[str, Any] = {
        "library_name": "onnx",
        "pipeline_tag": "image-classification",
        "license": "unknown",
        "tags": tags,
        "metrics": ["accuracy"],
    }
    if recipe.data.source in _HUB_DATASETS:
        fields["datasets"] = [_HUB_DATASETS[recipe.data.source]]
    if result["test_accuracy_pct"] is not None:
        dataset = {"name": recipe.data.source, "type": _HUB_DATASETS.get(recipe.data.source, recipe.data.source)}
        metric = {"type": "accuracy", "value": round(result["test_accuracy_pct"] / 100, 6)}
        task = {"type": "image-classification"}
        results = [{"task": task, "dataset": {**dataset, "split": "test"}, "metrics": [metric]}]
        fields["model-index"] = [{"name": f"{recipe.name}/{path.stem}", "results": results}]
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in fields.items()), "---"])


def _title(info: ModelInfo, recipe: Recipe) -> str:
    if info.kind == "submodel":
        alone = recipe.model.submodel
        return info.exits[0].name if alone is None else f"sub-model {alone}, trained alone"
    return f"a network of {len(info.exits)} exits that stops early"


def _summary(info: ModelInfo, result: Mapping[str, Any], recipe: Recipe) -> str:
    colour = "grey" if info.input.channels == 1 else "RGB"
    what = (
        f"An image classifier for {colour} images of {info.input.size} x {info.input.size} pixels and "
        f"{len(info.classes)} classes, as {format_of(Path(result['path']).suffix).summary}"
    )
    if info.kind == "submodel":
        return f"{what}. {_origin(info, recipe)}"
    end = ""
    if _ends_before_main(info):
        end = (
            f" The last exit is {info.exits[-1].name}: main, the whole network, is not in this file, and is named "
            "below only to compare with."
        )
    return (
        f"{what}. Each image leaves at the first exit that is sure enough of it, by itself, whatever the batch; what "
        f"lies behind that exit is not computed for it.{end}"
    )


def _origin(info: ModelInfo, recipe: Recipe) -> str:
    """What a file of one exit is part of."""
    alone = recipe.model.submodel
    if alone is not None:
        return (
            f"It is the network of sub-model {alone}, the layers up to that exit and those of its head, trained alone: "
            "its one exit is called main below, and costs are relative to itself."
        )
    if not _has_early_exits(recipe):
        return "It is a network that was trained with this one exit."
    return f"It is {info.exits[0].name} of a network that was trained with all of its exits."


def _has_early_exits(recipe: Recipe) -> bool:
    """Whether what was trained has exits before main."""
    return METHODS[recipe.train.method].has_early_exits and bool(recipe.critics.after)


def _ends_before_main(info: ModelInfo) -> bool:
    return info.kind == "progressive" and info.exits[-1].name != "main"


def _table(info: ModelInfo, result: Mapping[str, Any]) -> str:
    progressive = info.kind == "progressive"
    leaving = ["leave here", "threshold"] if progressive else []
    columns = ["exit", *leaving, "validation %", "test %", "MACs", "of main", "parameters"]
    fractions = result["exit_fractions"] or [None] * len(info.exits)
    thresholds = [*(f"{value:.4f}" for value in info.thresholds), NOT_KNOWN]
    rows = []
    for known, fraction, threshold, macs in zip(info.exits, fractions, thresholds, info.exit_macs, strict=False):
        own = [share(fraction), threshold] if progressive else []
        accuracies = [percent(known.val_accuracy_pct), percent(known.test_accuracy_pct)]
        rows.append(
            [known.name, *own, *accuracies, millions(macs), share(macs / info.main_macs), millions(known.params)]
        )
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(_text(cell) for cell in line)} |" for line in lines)


def _outcome(info: ModelInfo, result: Mapping[str, Any]) -> str:
    lines = []
    if info.kind == "progressive":
        lines.append(
            "Accuracies are those of each exit alone, for all images; the MACs (multiply-adds) are what an image has "
            "cost that leaves there, the exits on its way included. Parameters are those of the exit's sub-model alone."
        )
        if result["test_accuracy_pct"] is not None:
            whole = "float32's main" + (", which is not in this file" if _ends_before_main(info) else "")
            lines.append(
                f"**Stopping early: {percent(result['test_accuracy_pct'])} % of the test images are right, for "
                f"{millions(result['mean_macs'])} MACs a mean image, {share(result['macs_ratio'])} of main's** "
                f"({whole}: {percent(result['main_test_accuracy_pct'])} %)."
            )
        lines += [f"{line[0].upper()}{line[1:]}." for line in forecast(result)]
        scaled = ", ".join(f"{value:.4g}" for value in info.temperatures)
        lines.append(
            f"An image leaves where the {CRITERIA[info.criterion]} is at least the threshold."
            + (
                f" For that, the logits of the exits are divided by {scaled}."
                if set(info.temperatures) != {1.0}
                else ""
            )
        )
    lines.append(f"The file has {kilobytes(result['size_bytes'])}.")
    return "\n\n".join(lines)


def _training(info: ModelInfo, recipe: Recipe) -> str:
    trunk, critics, train = recipe.model, recipe.critics, recipe.train
    length = f"{train.iterations:,} iterations" if train.iterations else f"{train.epochs:g} epochs"
    heads = f"; heads of the early exits: {critics.head}" if _has_early_exits(recipe) else ""
    if trunk.submodel is not None:
        heads = f", as far as sub-model {trunk.submodel} goes; its head: {critics.head}"
    lines = [
        f"- Data: {_DATA[recipe.data.source]}; {recipe.data.val_size:,} training images held out for validation; "
        f"augmentation: {recipe.data.augment}",
        f"- Network: {trunk.trunk}, width {trunk.width:g}{heads}",
        f"- Training: {train.method}, {length}, {train.optimizer}, seed {train.seed}",
        f"- Recipe: {recipe.name}, SHA-256 `{info.recipe_sha256}`; written by lcprune {info.version}",
    ]
    shown = ", ".join(_text(name) for name in info.classes[:20])
    return "\n".join([*lines, f"- Classes: {shown}{', ...' if len(info.classes) > 20 else ''}"])


_INT8_RANGE = {
    "safe": "Weights have 7 bits, so that the results are the same on every processor.",
    "full": "Weights have 8 bits: x86 processors without VNNI (before Ice Lake and Zen 4) overflow and may give other "
    "results, unless onnxruntime's session option `session.x64quantprecision` is `1`.",
}


def _numbers(result: Mapping[str, Any]) -> str:
    lines = [PRECISIONS[result["precision"]].summary]
    quantization, agreement = result.get("quantization"), result.get("agreement")
    if quantization and quantization["method"]:
        lines.append(
            f"{quantization['int8_convolutions']} convolutions are computed in int8, all there are. Their ranges were "
            f"found by {quantization['method']} on {quantization['samples']} training images."
        )
        lines.append(_INT8_RANGE[quantization["int8_range"]])
    if agreement:
        same = ", ".join(f"{value:.1f}" for value in agreement["same_class_pct"])
        lines.append(f"Images with the class that float32 gives, by exit: {same} % ({agreement['split']} split).")
    parity = result["parity"]
    lines.append(
        f"Held against {parity['against']} on {parity['samples']} images before it was written: logits within "
        f"{parity['max_abs_diff']:.1e}{', the same exits' if len(result['thresholds']) else ''}."
    )
    return " ".join(lines)


def _files(path: Path, result: Mapping[str, Any]) -> str:
    lines = [f"- `{path.name}`: the model"]
    if "operators" in result:
        lines.append(f"- `{Path(result['operators']).name}`: the operators that a reduced onnxruntime needs for it")
    if "segments" in result:
        manifest = Path(result["segments"])
        what = f"one file per segment, and `{manifest.name}`, for hosts that decide who leaves"
        lines.append(f"- `{manifest.parent.name}/`: {what}")
    return "\n".join(lines)


def _usage(path: Path, info: ModelInfo, result: Mapping[str, Any]) -> str:
    side, channels = info.input.size, info.input.channels
    rows = 1 if info.batch else 8
    progressive = info.kind == "progressive"
    outputs = (
        'logits, exit_index = session.run(["logits", "exit_index"], feed)'
        if progressive
        else ('(logits,) = session.run(["logits"], feed)')
    )
    exits = ", prediction.exits" if progressive else ""
    return f"""With lcprune (it reads the input's size and the thresholds from the file):

```python
import numpy as np
from lcprune import ProgressiveSession

session = ProgressiveSession("{path.name}")
images = np.zeros(({rows}, {channels}, {side}, {side}), np.uint8)  # {"grey" if channels == 1 else "RGB"}, 0 to 255
prediction = session(images)
print(prediction.labels, prediction.confidences{exits})
```

With onnxruntime alone:

```python
import json
import numpy as np
import onnxruntime

onnxruntime.set_default_logger_severity(3)
session = onnxruntime.InferenceSession("{path.name}", providers=["CPUExecutionProvider"])
about = session.get_modelmeta().custom_metadata_map
feed = {{"image": np.zeros(({rows}, {channels}, {side}, {side}), np.float32)}}  # 0 to 1; normalisation is in the graph
if "threshold" in {{entry.name for entry in session.get_inputs()}}:  # a file without defaults
    feed["threshold"] = np.array(json.loads(about["lcprune.thresholds"]), np.float32)
{outputs}
print([json.loads(about["lcprune.classes"])[label] for label in logits.argmax(axis=1)])
```

{_reading(info)}"""


def _reading(info: ModelInfo) -> str:
    """How an image file becomes the input."""
    wanted = info.input
    if wanted.shorter_side is None:
        return f"Images are resized to {wanted.size} x {wanted.size} ({wanted.resize}, {wanted.interpolation})."
    return (
        f"Images are resized until their shorter side has {wanted.shorter_side} pixels ({wanted.interpolation}), and "
        f"the middle {wanted.size} x {wanted.size} is cut out."
    )


def _limits(info: ModelInfo, result: Mapping[str, Any], recipe: Recipe) -> str:
    lines = [
        f"It knows its {len(info.classes)} classes and no others: an image of anything else gets one of them.",
        "Accuracy was measured on images like those of training; on others it may be far lower, and confidences too "
        "high.",
    ]
    if recipe.data.val_size == 0:
        lines.append("No images were held out: what was chosen on the test images looks better than it is.")
    if info.kind == "progressive":
        deepest = share(max(info.exit_macs) / info.main_macs)
        lines += [
            f"An image that leaves nowhere early costs {deepest} of main. The mean cost above holds for images like "
            "the test images: harder ones cost more.",
            "Time varies from image to image. An image with a pixel that is not finite never leaves early.",
        ]
    if info.batch:
        lines.append("It takes one image at a time.")
    if result["precision"] == "int8":
        lines.append("On x86 processors without VNNI, integer kernels may saturate.")
    lines.append("No licence is stated here: add that of your weights, and mind that of the data.")
    return "\n".join(f"- {line}" for line in lines)


def _text(name: str) -> str:
    """A name as plain text in Markdown, tables included."""
    return re.sub(r"([\\`*_\[\]<>|#&])", r"\\\1", " ".join(name.split()))
