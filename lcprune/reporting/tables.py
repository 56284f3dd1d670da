"""Tables for the terminal."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, TextIO

from rich import markup
from rich.console import Console, Group, RenderableType
from rich.table import Table

from lcprune.errors import printable

NOT_KNOWN = "-"
MOST_CLASSES = 20
MOST_NAMED = 5
LEAST_SHOWN_PCT = 1.0  # points between accuracy and balanced accuracy, from which on both are worth a column
UNBOUNDED = 10_000
"""Columns off a terminal: paths must come out whole."""


def escape(text: str) -> str:
    """A name from elsewhere as plain text: rich takes none of it for markup, and a terminal obeys none of it."""
    return markup.escape(printable(text))


def print_table(table: RenderableType, file: TextIO) -> None:
    """Prints a table or a text; off a terminal it is as wide as it needs to be."""
    console = Console(file=file, highlight=False)
    if not console.is_terminal:
        console = Console(file=file, highlight=False, width=UNBOUNDED)
    console.print(table)


def trained_table(result: Any) -> RenderableType:
    """Accuracy of every exit of a finished run, and what to do next."""
    splits = {"val accuracy %": result.val_accuracy_pct, "test accuracy %": result.test_accuracy_pct}
    for split in ("val", "test"):
        plain, balanced = (getattr(result, f"{split}_{kind}_pct") for kind in ("accuracy", "balanced_accuracy"))
        if any(abs(one - other) >= LEAST_SHOWN_PCT for one, other in zip(plain, balanced, strict=False)):
            splits[f"{split} balanced %"] = balanced
    shown = {name: values for name, values in splits.items() if values}
    table = _table("exit", *shown)
    for index, name in enumerate(result.exit_names):
        table.add_row(name, *(f"{values[index]:.2f}" for values in shown.values()))
    if len(result.exit_names) > 1:
        steps = "next: lcprune select --max-drop 2.0\nthen: lcprune export --format onnx --progressive"
    else:
        steps = "next: lcprune export --format onnx --exit main"
    return Group(table, f"run: {escape(str(result.run))}", steps)


def dry_run_table(result: Mapping[str, Any]) -> RenderableType:
    """Costs of the sub-models of an untrained network."""
    table = _table("sub-model", "MACs", "of main", "parameters")
    for candidate in result["candidates"]:
        table.add_row(
            candidate["name"],
            millions(candidate["macs"]),
            share(candidate["macs_ratio"]),
            millions(candidate["params"]),
        )
    ratio = result["cascade_macs"] / result["candidates"][-1]["macs"]
    lines = [f"all exits in cascade: {millions(result['cascade_macs'])} MACs, {share(ratio)} of main"]
    if "groups" in result:
        lines.append(escape(balance_line(result["groups"])))
    return Group(table, *lines)


def balance_line(groups: Sequence[Mapping[str, Any]]) -> str:
    """Where the layer groups of a trunk end, and their shares of its MACs."""
    parts = [f"to {group['ends_at']} {share(group['share'])}" for group in groups]
    return f"layer groups: {', '.join(parts)} of the MACs of main"


def cuts_table(result: Mapping[str, Any]) -> RenderableType:
    """Places where a trunk can be cut; a star marks those that ``cuts: auto`` takes."""
    table = _table("place", "MACs before it", "of all", "shape there", "auto")
    for place in result["places"]:
        shape = "x".join(map(str, place["shape"]))
        table.add_row(escape(place["name"]), millions(place["macs"]), share(place["share"]), shape, "*" * place["auto"])
    size = "x".join(map(str, result["image_shape"]))
    ends = [0, *(place["macs"] for place in result["places"] if place["auto"]), result["macs"]]
    shares = ", ".join(share((end - start) / result["macs"]) for start, end in pairwise(ends))
    return Group(
        table,
        f"{escape(result['trunk'])}: {millions(result['macs'])} MACs for an image of {size}",
        f"model.cuts: auto makes {len(ends) - 1} groups of {shares} of the MACs",
    )


def profile_table(result: Mapping[str, Any]) -> RenderableType:
    """Cost of every sub-model and of the cascade."""
    table = _table("sub-model", "MACs", "of main", "parameters", "file", "latency")
    for exit_cost in result["exits"]:
        table.add_row(
            exit_cost["name"],
            millions(exit_cost["macs"]),
            share(exit_cost["macs_ratio"]),
            millions(exit_cost["params"]),
            kilobytes(exit_cost["size_bytes"]),
            milliseconds(exit_cost["latency_ms"]),
        )
    macs = result["cascade_macs"]
    text = f"all exits in cascade: {millions(macs)} MACs, {share(macs / result['exits'][-1]['macs'])} of main"
    return Group(table, text, "latency: onnxruntime on this machine's CPU, batch 1, one thread, median")


def selection_table(chosen: Any) -> RenderableType:
    """All candidates, the choice marked, and why the others were not taken."""
    bounded = any(candidate.drop_upper_pct is not None for candidate in chosen.candidates)
    measured = any(candidate.latency_ms is not None for candidate in chosen.candidates)
    columns = ["", "sub-model", "MACs", "of main", "parameters", *(["latency"] if measured else [])]
    table = _table(*columns, "val %", "test %", "drop", *(["at most"] if bounded else []), "verdict")
    for candidate in chosen.candidates:
        mark = ">" if candidate == chosen.selected else ""
        upper = [points(candidate.drop_upper_pct)] if bounded else []
        latency = [milliseconds(candidate.latency_ms)] if measured else []
        table.add_row(
            mark,
            candidate.name,
            millions(candidate.macs),
            share(candidate.macs_ratio),
            millions(candidate.params),
            *latency,
            percent(candidate.val_accuracy_pct),
            percent(candidate.test_accuracy_pct),
            points(candidate.drop_pct),
            *upper,
            chosen.verdicts[candidate.name],
            style="bold" if mark else None,
        )
    return Group(table, *(escape(line) for line in chosen.remarks))


def export_table(result: Mapping[str, Any]) -> RenderableType:
    """What was written, what it was checked against, and what it costs; beside float32 if it is something else."""
    parity = result["parity"]
    what = f"{result['kind']}, {result['precision']}, {kilobytes(result['size_bytes'])}"
    lines = [
        f"wrote {escape(str(result['path']))} ({what})",
        f"agrees with {parity.get('against', 'torch')} on {parity['samples']} images: "
        f"logits within {parity['max_abs_diff']:.1e}" + (", the same exits" if result["kind"] == "progressive" else ""),
    ]
    if result["test_accuracy_pct"] is not None:
        lines.append(
            f"test accuracy {result['test_accuracy_pct']:.2f} % "
            f"(float32's main {result['main_test_accuracy_pct']:.2f} %) for "
            f"{millions(result['mean_macs'])} MACs per image on average, {share(result['macs_ratio'])} of main"
        )
    lines += forecast(result)
    if beside := [name for name in ("card", "segments", "operators") if name in result]:
        lines.append("beside it: " + ", ".join(escape(str(result[name])) for name in beside))
    parts: list[RenderableType] = [*lines, *(_precision_lines(result) if "quantization" in result else [])]
    if result["kind"] != "progressive":
        return Group(*parts)
    if "mean_latency_ms" in result:
        parts.append(f"mean latency {result['mean_latency_ms']:.3f} ms, by what was measured on this machine")
    table = _table("exit", f"{result['criterion']} from", "leave here")
    thresholds = [*(f"{value:.4f}" for value in result["thresholds"]), NOT_KNOWN]
    fractions = result["exit_fractions"] or [None] * len(thresholds)
    for name, threshold, fraction in zip(result["exits"], thresholds, fractions, strict=True):
        table.add_row(escape(name), threshold, share(fraction))
    return Group(*parts, table)


def forecast(result: Mapping[str, Any]) -> list[str]:
    """What new images are expected to lose, beside what the deciding images lost; nothing where nobody decided."""
    if "expected_drop_pct" not in result:
        return []
    images, error = result["deciding_images"], result["expected_drop_se_pct"]
    lines = [
        f"loses {points(result['expected_drop_pct'])} points against float32's main, give or take {points(error)}, "
        f"on new images (cross-validated); the {images:,} deciding images lost {points(result['drop_pct'])}"
    ]
    if result.get("drop_upper_pct") is not None:
        lines[0] += f", and {points(result['drop_upper_pct'])} is the upper end of the interval"
    needed = result["images_needed"]
    if needed is not None and needed > images:
        lines.append(f"about {needed:,} deciding images would bring the uncertainty to half of the budget")
    return lines


def _precision_lines(result: Mapping[str, Any]) -> list[RenderableType]:
    """How numbers of another precision were made, and what they change."""
    parts: list[RenderableType] = []
    quantization, agreement = result["quantization"], result["agreement"]
    if quantization["method"]:
        bits = "7 bits: the same on every processor" if quantization["int8_range"] == "safe" else "8 bits"
        parts.append(
            f"{quantization['int8_convolutions']} convolutions in int8, all there are; ranges: "
            f"{escape(quantization['method'])}, on {quantization['samples']} training images; weights of {bits}"
        )
    if agreement:
        same = ", ".join(f"{value:.1f}" for value in agreement["same_class_pct"])
        parts.append(f"same class as fp32 on {agreement['samples']} {agreement['split']} images, by exit: {same} %")
    table = _table("precision", "size", "of fp32", "test %", "MACs of main", "leave at each exit")
    whole = result["fp32"]["size_bytes"]
    for precision, row in (("fp32", result["fp32"]), (result["precision"], result)):
        table.add_row(
            precision,
            kilobytes(row["size_bytes"]),
            share(row["size_bytes"] / whole),
            percent(row["test_accuracy_pct"]),
            share(row["macs_ratio"]),
            "  ".join(share(fraction) for fraction in row["exit_fractions"] or ()),
        )
    return [*parts, table]


def evaluation_table(result: Mapping[str, Any]) -> RenderableType:
    """Exits, ensembles, and progressive inference."""
    parts: list[RenderableType] = []
    if result["exits"]:
        table = _table("exit", "accuracy %")
        for row in result["exits"]:
            table.add_row(escape(row["name"]), percent(row["accuracy_pct"]))
        for name, accuracy in result["ensembles"].items():
            table.add_row(f"ensemble {name}", percent(accuracy))
            for row in result.get("ensemble_kinds", ()):  # of a run; a file has no validation split
                if row["members"] == name and row["kind"] != "logits":
                    table.add_row(_other_kind(row), percent(row["accuracy_pct"]))
        parts.append(table)
    table = _table("threshold", "accuracy %", "MACs", "of main", "leave at each exit")
    for row in result["progressive"]:
        threshold = row["threshold"]
        table.add_row(
            ", ".join(f"{t:.4f}" for t in threshold) if isinstance(threshold, list) else f"{threshold:.2f}",
            percent(row["accuracy_pct"]),
            millions(row["mean_macs"]),
            share(row["macs_ratio"]),
            "  ".join(share(fraction) for fraction in row["exit_fractions"]),
        )
    if result["progressive"]:
        parts.append(table)
    return Group(*parts, escape(f"{result['split']}: {result['samples']} images"))


def _other_kind(row: Mapping[str, Any]) -> str:
    """How an ensemble was combined if its outputs were not just summed."""
    if row["kind"] == "probabilities":
        return "  sum of probabilities"
    return f"  weighted {' '.join(f'{weight:.2f}' for weight in row['weights'])}"


def prediction_table(result: Mapping[str, Any]) -> RenderableType:
    """A line for each image."""
    progressive = result["kind"] == "progressive"
    table = _table("image", "class", "confidence", *(["exit", "MACs of main"] if progressive else []))
    for row in result["images"]:
        extra = [escape(row["exit"]), share(row["macs_ratio"])] if progressive else []
        table.add_row(escape(row["image"]), escape(row["class"]), f"{row['confidence']:.4f}", *extra)
    return Group(table, f"contact sheet: {escape(result['grid'])}") if "grid" in result else table


def bench_table(result: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Models side by side."""
    table = _table("model", "kind", "file", "median", "p95", "to the first")
    progressive = any(row["kind"] == "progressive" for row in result)
    for row in result:
        table.add_row(
            escape(row["model"]),
            row["kind"],
            kilobytes(row["size_bytes"]),
            milliseconds(row["latency_ms"]),
            milliseconds(row["latency_p95_ms"]),
            f"{row['ratio']:.2f}",
        )
    return Group(
        table,
        "onnxruntime on this machine's CPU, batch 1, one thread, runs taken in turn, a random image",
        *(["a progressive model takes longer for an image that leaves later"] if progressive else []),
    )


def survey_table(result: Mapping[str, Any]) -> RenderableType:
    """What a folder of images holds, and the recipe that was written for it."""
    splits = list(result["counts"])
    table = _table("class", *(("images",) if splits == ["all"] else splits))
    classes = result["classes"]
    shown = classes if len(classes) <= MOST_CLASSES else classes[: MOST_CLASSES - 1]
    for name in shown:
        table.add_row(_text(name), *(f"{result['counts'][split].get(name, 0):,}" for split in splits))
    if len(shown) < len(classes):
        rest = (sum(result["counts"][split].get(name, 0) for name in classes[len(shown) :]) for split in splits)
        table.add_row(f"{len(classes) - len(shown):,} more", *(f"{count:,}" for count in rest))
    table.add_row("all", *(f"{sum(result['counts'][split].values()):,}" for split in splits), style="bold")
    steps = [f"wrote {_text(result['recipe'])}", "next: lcprune train --dry-run, to see what it costs"]
    return Group(table, *_survey_lines(result), *steps, "then: lcprune train")


def _survey_lines(result: Mapping[str, Any]) -> list[str]:
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in result["kinds"].items())
    low, _, median, _, high = zip(result["width_px"], result["height_px"], strict=True)
    size = f"{median[0]:.0f} x {median[1]:.0f} pixels"
    size += ", all" if low == high else f" (median; {low[0]:.0f} x {low[1]:.0f} to {high[0]:.0f} x {high[1]:.0f})"
    turned = f", {result['rotated']:,} turned by EXIF" if result["rotated"] else ""
    looked = f"looked at {result['sampled']:,} files, and at the pixels of {result['decoded']:,}"
    lines = [f"size: {size}", f"kinds: {kinds}{turned}", looked]
    if round(result["imbalance"], 1) > 1:
        lines.append(f"the largest class has {result['imbalance']:.1f} times the training images of the smallest")
    if result["compared"] < result["same_size"]:
        lines.append(
            f"of {result['same_size']:,} files that share their size with another, {result['compared']:,} were "
            "compared: there may be more copies"
        )
    lines += _named("damaged files", [_text(row["problem"]) for row in result["damaged"]])
    for what, key in (
        ("images in more than one split (their accuracy there says too much)", "leaks"),
        ("images in more than one class", "contradictions"),
        ("images that there are copies of", "copies"),
    ):
        lines += _named(what, [" = ".join(_text(path) for path in group[:3]) for group in result[key]])
    others = ", ".join(f"{count:,} {_text(suffix)}" for suffix, count in result["other_files"].items())
    if others:
        lines.append(f"files that are no images, passed over: {others} (such as {_text(result['other_examples'][0])})")
    return [*lines, *(_text(remark) for remark in result["remarks"])]


def _named(what: str, names: Sequence[str]) -> list[str]:
    """A heading and the first names; nothing if there are none."""
    if not names:
        return []
    more = [f"  and {len(names) - MOST_NAMED:,} more (--json names them)"] if len(names) > MOST_NAMED else []
    return [f"{what}: {len(names):,}", *(f"  {name}" for name in names[:MOST_NAMED]), *more]


def _text(name: str) -> str:
    """A name from the file system, which may hold bytes that are no text, as something that can be printed."""
    return escape(name.encode("utf-8", "replace").decode("utf-8"))


def recipe_table(described: Mapping[str, str]) -> RenderableType:
    """Names of recipes and what they are."""
    table = _table("recipe", "what it is")
    for name, text in described.items():
        table.add_row(name, escape(text))
    return Group(table, "copy one to change it: lcprune recipes NAME > my.yaml")


def doctor_table(result: Mapping[str, Any]) -> RenderableType:
    """What a machine has, and its problems."""
    table = _table("what", "found")
    for name, found in result["found"].items():
        table.add_row(name, escape(str(found)))
    problems = [f"problem: {escape(problem)}" for problem in result["problems"]]
    lines = problems or ["everything that lcprune needs is here"]
    if "differs" in result:
        differs = [f"differs from the run: {escape(line)}" for line in result["differs"]]
        lines += differs or [f"this is the machine of {escape(result['run'])}, as far as it is recorded"]
    return Group(table, *lines)


def millions(count: float) -> str:
    """``1.42M``."""
    return f"{count / 1e6:.2f}M"


def share(fraction: float | None) -> str:
    """``36.0 %``."""
    return NOT_KNOWN if fraction is None else f"{100 * fraction:.1f} %"


def percent(value: float | None) -> str:
    """``92.39``."""
    return NOT_KNOWN if value is None else f"{value:.2f}"


def points(value: float | None) -> str:
    """Percentage points, ``0.64``."""
    return NOT_KNOWN if value is None else f"{value:.2f}"


def kilobytes(size: int | None) -> str:
    """``532 kB``."""
    return NOT_KNOWN if size is None else f"{size / 1000:,.0f} kB"


def milliseconds(value: float | None) -> str:
    """``1.25 ms``."""
    return NOT_KNOWN if value is None else f"{value:.2f} ms"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        numeric = index > 0 and column not in (
            "verdict",
            "what it is",
            "found",
            "class",
            "exit",
            "sub-model",
            "kind",
        )
        table.add_column(
            column, justify="right" if numeric else "left", no_wrap=column not in ("verdict", "what it is")
        )
    return table
