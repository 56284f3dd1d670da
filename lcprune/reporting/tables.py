"""Tables for the terminal: what the commands that train, choose and export have found."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from lcprune.specs import FORMATS
from lcprune_runtime.tables import (
    NOT_KNOWN,
    Shown,
    duration,
    kilobytes,
    millions,
    milliseconds,
    percent,
    share,
    shares,
    table,
)

MOST_CLASSES = 20
MOST_NAMED = 5
LEAST_SHOWN_PCT = 1.0  # points between accuracy and balanced accuracy, from which on both are worth a column


def trained_table(result: Any) -> Shown:
    """Accuracy of every exit of a finished run, and what to do next."""
    splits = {"val accuracy %": result.val_accuracy_pct, "test accuracy %": result.test_accuracy_pct}
    for split in ("val", "test"):
        plain, balanced = (getattr(result, f"{split}_{kind}_pct") for kind in ("accuracy", "balanced_accuracy"))
        if any(abs(one - other) >= LEAST_SHOWN_PCT for one, other in zip(plain, balanced, strict=False)):
            splits[f"{split} balanced %"] = balanced
    shown = {name: values for name, values in splits.items() if values}
    rows = zip(result.exit_names, *(map(percent, values) for values in shown.values()), strict=True)
    if len(result.exit_names) > 1:
        steps = "next: lcprune select --max-drop 2.0\nthen: lcprune export --format onnx --progressive"
    else:
        steps = "next: lcprune export --format onnx --exit main"
    kept = []
    if result.kept_step is not None:
        kept = [
            f"steps: {result.iterations:,}; the weights are those of step {result.kept_step:,}, the best evaluation"
        ]
    return [table(["exit", *shown], rows), *kept, f"run: {result.run}", steps]


def dry_run_table(result: Mapping[str, Any]) -> Shown:
    """Costs of the sub-models of an untrained network."""
    candidates = result["candidates"]
    lines = [_cascade_line(result["cascade_macs"], candidates)]
    if "groups" in result:
        lines.append(balance_line(result["groups"]))
    return [table(["sub-model", "MACs", "of main", "parameters"], map(_cost_cells, candidates)), *lines]


def balance_line(groups: Sequence[Mapping[str, Any]]) -> str:
    """Where the layer groups of a backbone end, and their shares of its MACs."""
    parts = [f"to {group['ends_at']} {share(group['share'])}" for group in groups]
    return f"layer groups: {', '.join(parts)} of the MACs of main"


def cuts_table(result: Mapping[str, Any]) -> Shown:
    """Places where a backbone can be cut; a star marks those that ``cuts: auto`` takes."""
    rows = (
        [place["name"], millions(place["macs"]), share(place["share"]), _size(place["shape"]), "*" * place["auto"]]
        for place in result["places"]
    )
    ends = [0, *(place["macs"] for place in result["places"] if place["auto"]), result["macs"]]
    shares = ", ".join(share((end - start) / result["macs"]) for start, end in pairwise(ends))
    return [
        table(["place", "MACs before it", "of all", "shape there", "auto"], rows),
        f"{result['trunk']}: {millions(result['macs'])} MACs for an image of {_size(result['image_shape'])}",
        f"model.cuts: auto makes {len(ends) - 1} groups of {shares} of the MACs",
    ]


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def profile_table(result: Mapping[str, Any]) -> Shown:
    """Cost of every sub-model and of the cascade."""
    rows = (
        [*_cost_cells(cost), kilobytes(cost["size_bytes"]), milliseconds(cost["latency_ms"])]
        for cost in result["exits"]
    )
    return [
        table(["sub-model", "MACs", "of main", "parameters", "file", "latency"], rows),
        _cascade_line(result["cascade_macs"], result["exits"]),
        "latency: onnxruntime on this machine's CPU, batch 1, one thread, median",
    ]


def _cost_cells(cost: Mapping[str, Any]) -> list[str]:
    return [cost["name"], millions(cost["macs"]), share(cost["macs_ratio"]), millions(cost["params"])]


def _cascade_line(macs: int, exits: Sequence[Mapping[str, Any]]) -> str:
    return f"all exits in cascade: {millions(macs)} MACs, {share(macs / exits[-1]['macs'])} of main"


def selection_table(chosen: Any) -> Shown:
    """All candidates, the selected one marked, and why the others were not selected."""
    bounded = any(candidate.drop_upper_pct is not None for candidate in chosen.candidates)
    measured = any(candidate.latency_ms is not None for candidate in chosen.candidates)
    columns = ["", "sub-model", "MACs", "of main", "parameters", *(["latency"] if measured else [])]
    columns += ["val %", "test %", "drop", *(["at most"] if bounded else []), "verdict"]
    rows = [
        [">" if candidate == chosen.selected else "", *_cost_cells(vars(candidate))]
        + ([milliseconds(candidate.latency_ms)] if measured else [])
        + [percent(candidate.val_accuracy_pct), percent(candidate.test_accuracy_pct), percent(candidate.drop_pct)]
        + ([percent(candidate.drop_upper_pct)] if bounded else [])
        + [chosen.verdicts[candidate.name]]
        for candidate in chosen.candidates
    ]
    return [table(columns, rows, bold=[chosen.candidates.index(chosen.selected)]), *chosen.remarks]


def export_table(result: Mapping[str, Any]) -> Shown:
    """What was written, what it was verified against, and what it costs; beside float32 if it is something else."""
    parity = result["parity"]
    parts: Shown = [
        f"wrote {result['path']} ({result['kind']}, {result['precision']}, {kilobytes(result['size_bytes'])})",
        f"agrees with {parity.get('against', 'torch')} on {parity['samples']} images: "
        f"logits within {parity['max_abs_diff']:.1e}" + (", the same exits" if result["kind"] == "progressive" else "")
        if parity
        else f"converted, not run: {FORMATS[result['format']].summary} has no runtime for this system",
    ]
    if result["test_accuracy_pct"] is not None:
        parts.append(
            f"test accuracy {result['test_accuracy_pct']:.2f} % "
            f"(float32's main {result['main_test_accuracy_pct']:.2f} %) for "
            f"{millions(result['mean_macs'])} MACs per image on average, {share(result['macs_ratio'])} of main"
        )
    parts += forecast(result)
    if beside := [str(result[name]) for name in ("card", "segments", "operators") if name in result]:
        parts.append("beside it: " + ", ".join(beside))
    if "quantization" in result:
        parts += _precision_parts(result)
    if result["kind"] == "progressive":
        if "mean_latency_ms" in result:
            parts.append(f"mean latency {result['mean_latency_ms']:.3f} ms, from latencies measured on this machine")
        thresholds = [*(f"{value:.4f}" for value in result["thresholds"]), NOT_KNOWN]
        leave = map(share, result["exit_fractions"] or [None] * len(thresholds))
        rows = zip(result["exits"], thresholds, leave, strict=True)
        parts.append(table(["exit", f"{result['criterion']} from", "leave here"], rows))
    return parts


def forecast(result: Mapping[str, Any]) -> list[str]:
    """The expected loss on new images, beside the loss on the deciding images; nothing without deciding images."""
    if "expected_drop_pct" not in result:
        return []
    images, error = result["deciding_images"], result["expected_drop_se_pct"]
    lines = [
        f"loses {percent(result['expected_drop_pct'])} points against float32's main, give or take {percent(error)}, "
        f"on new images (cross-validated); the {images:,} deciding images lost {percent(result['drop_pct'])}"
    ]
    if result.get("drop_upper_pct") is not None:
        lines[0] += f", and {percent(result['drop_upper_pct'])} is the upper end of the interval"
    needed = result["images_needed"]
    if needed is not None and needed > images:
        lines.append(f"about {needed:,} deciding images would bring the uncertainty to half of the budget")
    return lines


def _precision_parts(result: Mapping[str, Any]) -> Shown:
    """How the numbers of another precision were found, and what they change."""
    parts: Shown = []
    quantization, agreement, fp32 = result["quantization"], result["agreement"], result["fp32"]
    if quantization["method"]:
        bits = "7 bits: the same on every processor" if quantization["int8_range"] == "safe" else "8 bits"
        parts.append(
            f"{quantization['int8_convolutions']} convolutions in int8, all there are; ranges: "
            f"{quantization['method']}, on {quantization['samples']} training images; weights of {bits}"
        )
    if agreement:
        same = ", ".join(f"{value:.1f}" for value in agreement["same_class_pct"])
        parts.append(f"same class as fp32 on {agreement['samples']} {agreement['split']} images, by exit: {same} %")
    names, last = ("fp32", result["precision"]), result["exits"][-1]
    rows = [
        [precision, kilobytes(row["size_bytes"]), share(row["size_bytes"] / fp32["size_bytes"])]
        + [percent(row["test_accuracy_pct"]), _ms(row["latency_ms"]), share(row["macs_ratio"])]
        + [shares(row["exit_fractions"] or ())]
        for precision, row in zip(names, (fp32, result), strict=True)
    ]
    if result["kind"] == "progressive":  # in the same table, what the last exit does alone
        rows = [
            *(
                [f"{precision} {last}", NOT_KNOWN, NOT_KNOWN, percent(accuracy), _ms(latency_ms), NOT_KNOWN, ""]
                for precision, accuracy, latency_ms in zip(
                    names, result["last_exit_test_accuracy_pct"], result["last_exit_latency_ms"], strict=True
                )
            ),
            *rows,
        ]
    heads = ["precision", "size", "of fp32", "test %", "mean ms", "MACs of main", "leave at each exit"]
    return [*parts, table(heads, rows), "ms: measured on this machine, batch 1, CPU time of one thread"]


def _ms(value: float | None) -> str:
    return NOT_KNOWN if value is None else f"{value:.2f}"


def survey_table(result: Mapping[str, Any]) -> Shown:
    """What a folder of images holds, and the recipe that was written for it."""
    counts, classes = result["counts"], result["classes"]
    shown = classes if len(classes) <= MOST_CLASSES else classes[: MOST_CLASSES - 1]
    rows = [(name, *(f"{counts[split].get(name, 0):,}" for split in counts)) for name in shown]
    if len(shown) < len(classes):
        rest = (sum(counts[split].get(name, 0) for name in classes[len(shown) :]) for split in counts)
        rows.append((f"{len(classes) - len(shown):,} more", *(f"{count:,}" for count in rest)))
    rows.append(("all", *(f"{sum(counts[split].values()):,}" for split in counts)))
    columns = ["class", *(["images"] if list(counts) == ["all"] else counts)]
    takes = f"training takes {result['steps']:,} steps, about {duration(result['training_s'])} on this machine"
    steps = [f"wrote {result['recipe']}", takes, "next: lcprune train --dry-run, to see what the network costs"]
    return [table(columns, rows, bold=[len(rows) - 1]), *_survey_lines(result), *steps, "then: lcprune train"]


def _survey_lines(result: Mapping[str, Any]) -> list[str]:
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in result["kinds"].items())
    sizes = zip(result["width_px"], result["height_px"], strict=True)
    low, _, median, _, high = (f"{width:.0f} x {height:.0f}" for width, height in sizes)
    lines = [
        f"size: {median} pixels" + (", all" if low == high else f" (median; {low} to {high})"),
        f"kinds: {kinds}" + (f", {result['rotated']:,} turned by EXIF" if result["rotated"] else ""),
        f"looked at {result['sampled']:,} files, and at the pixels of {result['decoded']:,}",
    ]
    if round(result["imbalance"], 1) > 1:
        lines.append(f"the largest class has {result['imbalance']:.1f} times the training images of the smallest")
    if result["compared"] < result["same_size"]:
        lines.append(
            f"of {result['same_size']:,} files that share their size with another, {result['compared']:,} were "
            "compared: there may be more copies"
        )
    groups = {key: [" = ".join(group[:3]) for group in result[key]] for key in ("leaks", "contradictions", "copies")}
    for what, names in (
        ("damaged files", [row["problem"] for row in result["damaged"]]),
        ("images in more than one split (which makes the accuracy there too high)", groups["leaks"]),
        ("images in more than one class", groups["contradictions"]),
        ("images with copies", groups["copies"]),
    ):
        lines += [f"{what}: {len(names):,}"] if names else []
        lines += [f"  {name}" for name in names[:MOST_NAMED]]
        if len(names) > MOST_NAMED:
            lines.append(f"  and {len(names) - MOST_NAMED:,} more (--json names them)")
    if others := ", ".join(f"{count:,} {suffix}" for suffix, count in result["other_files"].items()):
        lines.append(f"files that are not images, skipped: {others} (such as {result['other_examples'][0]})")
    return [*lines, *result["remarks"]]


def recipe_table(described: Mapping[str, str]) -> Shown:
    """Names of recipes and what they are."""
    return [table(["recipe", "what it is"], described.items()), "copy one to change it: lcprune recipes NAME > my.yaml"]


def doctor_table(result: Mapping[str, Any]) -> Shown:
    """What a machine has, and its problems."""
    lines = [f"problem: {problem}" for problem in result["problems"]] or ["everything that lcprune needs is here"]
    if "differs" in result:
        differs = [f"differs from the run: {line}" for line in result["differs"]]
        lines += differs or [f"this is the machine of {result['run']}, as far as it is recorded"]
    return [table(["what", "found"], result["found"].items()), *lines]
