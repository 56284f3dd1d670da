"""A model card: Markdown beside an exported file, with the YAML header that model hubs read."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from lcprune.exits import MAIN
from lcprune.recipe import Recipe
from lcprune.reporting.tables import forecast
from lcprune.specs import CRITERIA, FORMATS, METHODS, PRECISIONS
from lcprune_runtime.metadata import ModelInfo
from lcprune_runtime.tables import NOT_KNOWN, kilobytes, millions, percent, share

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
        info: The metadata of the file.
        result: As ``lcprune export --json`` prints it.
        recipe: That the network was trained with.
    """
    environment = Environment(  # Markdown: nothing to escape as in HTML
        trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined,
        loader=PackageLoader("lcprune", "reporting"),
    )  # fmt: skip
    environment.filters |= {
        "json": json.dumps,
        "text": plain_text,
        "millions": millions,
        "share": share,
        "percent": percent,
        "kilobytes": kilobytes,
        "format": format,
    }
    model, train = recipe.model, recipe.train
    has_early_exits = METHODS[train.method].has_early_exits and bool(recipe.critics.after)
    heads = f"; heads of the early exits: {recipe.critics.head}" if has_early_exits else ""
    if model.submodel is not None:
        heads = f", as far as sub-model {model.submodel} goes; its head: {recipe.critics.head}"
    card = environment.get_template("model_card.md").render(
        name=path.name,
        info=info,
        input=info.input,
        result=result,
        recipe=recipe,
        header=_header(path, info, result, recipe),
        title=_title(info, recipe),
        format=FORMATS[result["format"]],
        progressive=info.kind == "progressive",
        has_main=info.exits[-1].name.startswith(MAIN) and info.exits[-1].image_size in (None, info.input.size),
        has_early_exits=has_early_exits,
        table=_table(info, result),
        forecast=forecast(result),
        criterion=CRITERIA[info.criterion],
        data=_DATA[recipe.data.source],
        heads=heads,
        length=f"{train.iterations:,} iterations" if train.iterations else f"{train.epochs:g} epochs",
        precision=PRECISIONS[result["precision"]],
        quantization=result.get("quantization"),
        agreement=result.get("agreement"),
        operators=Path(result["operators"]).name if "operators" in result else None,
        segments=Path(result["segments"]) if "segments" in result else None,
        shape=(1 if info.batch else 8, info.input.channels, info.input.size, info.input.size),
    )
    return re.sub(r"\n{3,}", "\n\n", card) + "\n"


def _header(path: Path, info: ModelInfo, result: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """The fields of the YAML header; their values are written as JSON, which YAML reads."""
    progressive = ["early-exit", "adaptive-inference"] if info.kind == "progressive" else []
    library = "onnx" if FORMATS[result["format"]].package is None else result["format"]
    runtimes = ["onnx", "onnxruntime"] if library == "onnx" else [library]
    tags = [*runtimes, "image-classification", *progressive, "lcprune", result["precision"]]
    fields: dict[str, Any] = {
        "library_name": library,
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
    return fields


def _title(info: ModelInfo, recipe: Recipe) -> str:
    if info.kind == "submodel":
        alone = recipe.model.submodel
        return info.exits[0].name if alone is None else f"sub-model {alone}, trained alone"
    return f"a network of {len(info.exits)} exits that stops early"


def _table(info: ModelInfo, result: Mapping[str, Any]) -> list[list[str]]:
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
    return [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]


def plain_text(name: str) -> str:
    """A name as plain text in Markdown, tables included."""
    return re.sub(r"([\\`*_\[\]<>|#&])", r"\\\1", " ".join(name.split()))
